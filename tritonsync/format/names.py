"""Which names may stand in an object name or a local path.

Checked on both sides: a writer never makes a name that a reader would refuse, and a reader trusts no bucket.
"""

from __future__ import annotations

import hashlib
import re

from tritonsync.errors import HostileNameError

__all__ = ["check_name", "safe_key", "workload_key"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it can be one part of a path, and nothing else.

    Raises:
        HostileNameError: it holds anything but `[A-Za-z0-9_.-]`, is empty, longer than 255 characters, `.` or `..`.
    """
    if not _NAME.fullmatch(name) or name in (".", ".."):
        shown = name if len(name) <= 80 else name[:80] + "..."
        raise HostileNameError(f"{what} {shown!r} is not 1 to 255 characters of [A-Za-z0-9_.-], or is a path part")
    return name


def safe_key(key: str) -> str:
    """Return the key as it stands in object names: itself where it fits, else its sha256 (the manifest keeps it whole)."""
    if _NAME.fullmatch(key) and key not in (".", ".."):
        return key
    return hashlib.sha256(key.encode()).hexdigest()


def workload_key(name: str) -> str:
    """Return the key of a workload: lower-cased, so that `ResNet` and `resnet` are one."""
    return name.lower()
