"""Which names may stand in an object name or a local path.

Checked on both sides: a writer never makes a name that a reader would refuse, and a reader trusts no bucket.
"""

from __future__ import annotations

import hashlib
import re

from tritonsync.errors import HostileNameError

__all__ = ["check_key", "check_name", "check_text", "is_name", "safe_key", "workload_key"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")


def is_name(name: str) -> bool:
    """Whether `name` can be one part of a path, and nothing else."""
    return _NAME.fullmatch(name) is not None and name not in (".", "..")


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it can be one part of a path, and nothing else.

    Raises:
        HostileNameError: it holds anything but `[A-Za-z0-9_.-]`, is empty, longer than 255 characters, `.` or `..`.
    """
    if not is_name(name):
        shown = name if len(name) <= 80 else name[:80] + "..."
        raise HostileNameError(f"{what} {shown!r} is not 1 to 255 characters of [A-Za-z0-9_.-], or is a path part")
    return name


def check_text(text: str, what: str = "text") -> str:
    """Return `text` if UTF-8 can hold it.

    Raises:
        HostileNameError: it holds half of a surrogate pair, as a JSON document or a pickle can.
    """
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise HostileNameError(f"{what} {text[:80]!r} is not Unicode text") from exc
    return text


def check_key(key: str, what: str = "key") -> str:
    """Return `key` if a bundle can have it.

    Raises:
        HostileNameError: it has not 1 to 1,024 characters, or is not Unicode text.
    """
    if not 1 <= len(key) <= 1024:
        raise HostileNameError(f"{what} has {len(key)} characters; 1 to 1,024 are allowed")
    return check_text(key, what)


def safe_key(key: str) -> str:
    """Return the key as it stands in object names: itself where it fits, else its sha256 (the manifest keeps it whole).

    Raises:
        HostileNameError: it is not Unicode text.
    """
    if is_name(key):
        return key
    return hashlib.sha256(check_text(key, "key").encode()).hexdigest()


def workload_key(name: str) -> str:
    """Return the key of a workload: lower-cased, so that `ResNet` and `resnet` are one."""
    return name.lower()
