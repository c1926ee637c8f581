"""Names of the objects in the bucket: made here and nowhere else, and which keys and names may stand in them.

::

    tritonsync.json                                     {"format": 1}; also the write probe
    kernels/<kernel_hash>/<content_id>/<file>           kernel folders, files as Triton wrote them, path replaced
    bundles/<kind>/<key>/<variant>/<bundle_id>/
        manifest.json                                   the bundle exists once this does
        pack.tar.zst                                    kernel files and payloads in one object
        payloads/<name>
        start.tar                                       of a workload: copies of what it lists, see start.py
    bundles/fx_graph/<key>/autotune/<id>/manifest.json  autotune results of that graph, values inline

Names are checked on both sides: a writer never makes one that a reader would refuse, and a reader trusts no bucket.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re

from tritonsync.errors import FormatError, HostileNameError, NewerFormatError

__all__ = [
    "AUTOTUNE",
    "FORMAT_CONTENT",
    "FORMAT_OBJECT",
    "MAX_FORMAT_BYTES",
    "BundlePlace",
    "check_format",
    "check_key",
    "check_name",
    "check_text",
    "is_id",
    "is_name",
    "kernel_folder_of",
    "kernel_prefix",
    "key_prefix",
    "parse_manifest_name",
    "parse_object_name",
    "safe_key",
    "stored_key",
    "workload_key",
]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_ID = re.compile(r"[0-9a-f]{32}")


def is_id(text: str) -> bool:
    """Whether it can be the id of a bundle or of a kernel's content: 32 hex digits."""
    return _ID.fullmatch(text) is not None


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


FORMAT_OBJECT = "tritonsync.json"
FORMAT_CONTENT = b'{"format": 1}'
#: More than the format object of any version will have.
MAX_FORMAT_BYTES = 4096
#: Stands where a variant would, under an FX key; no variant is ever named so.
AUTOTUNE = "autotune"


@dataclasses.dataclass(frozen=True)
class BundlePlace:
    """Where one bundle lies: the key as it stands in object names, not necessarily the key itself."""

    kind: str
    key: str
    variant: str
    bundle_id: str

    @property
    def prefix(self) -> str:
        """Ends with a slash."""
        return f"bundles/{self.kind}/{self.key}/{self.variant}/{self.bundle_id}/"

    @property
    def manifest(self) -> str:
        """The object that makes the bundle exist."""
        return self.prefix + "manifest.json"

    @property
    def pack(self) -> str:
        """The object that holds all of it."""
        return self.prefix + "pack.tar.zst"

    @property
    def start(self) -> str:
        """The object that holds copies of what a workload lists."""
        return self.prefix + "start.tar"

    def payload(self, name: str) -> str:
        """The object of one payload, outside the pack."""
        return f"{self.prefix}payloads/{name}"


def stored_key(kind: str, key: str) -> str:
    """Return a key as it stands in object names; see `safe_key`. Names of workloads are lower-cased."""
    return safe_key(workload_key(key) if kind == "workload" else key)


def key_prefix(kind: str, key: str) -> str:
    """Return the prefix of all bundles of one key, with a slash at the end."""
    return f"bundles/{kind}/{stored_key(kind, key)}/"


def kernel_prefix(kernel_hash: str, content_id: str) -> str:
    """Return the prefix of one kernel folder, with a slash at the end."""
    return f"kernels/{check_name(kernel_hash, 'kernel hash')}/{check_name(content_id, 'content id')}/"


def parse_manifest_name(name: str) -> BundlePlace | None:
    """Return the place whose manifest this is, or None for any other object."""
    if not name.endswith("/manifest.json"):
        return None
    place = parse_object_name(name)
    return place if place is not None and place.manifest == name else None


def parse_object_name(name: str) -> BundlePlace | None:
    """Return the place of the bundle that an object is part of, or None for what no tritonsync writes."""
    parts = name.split("/")
    if len(parts) < 6 or parts[0] != "bundles" or not is_id(parts[4]) or not all(map(is_name, parts)):
        return None
    place = BundlePlace(kind=parts[1], key=parts[2], variant=parts[3], bundle_id=parts[4])
    return place if name in (place.manifest, place.pack, place.start, place.payload(parts[-1])) else None


def kernel_folder_of(name: str) -> str | None:
    """Return the prefix of the kernel folder that a file lies in, or None for what no tritonsync writes."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != "kernels" or not is_id(parts[2]) or not all(map(is_name, parts)):
        return None
    return kernel_prefix(parts[1], parts[2])


_KNOWN: int = json.loads(FORMAT_CONTENT)["format"]


def check_format(content: bytes | None, shown: str) -> None:
    """Check that the bucket's format is known; no format object is a new bucket.

    Args:
        content: of the format object, None if there is none.
        shown: its URL, for messages.

    Raises:
        NewerFormatError: a newer tritonsync wrote it.
        FormatError: it is none.
    """
    if content is None:
        return
    try:
        number = json.loads(content)["format"]
    except (ValueError, TypeError, LookupError, RecursionError):
        number = None
    if type(number) is not int or number < 1:
        raise FormatError(
            f"{shown} is no format object of tritonsync",
            object_name=FORMAT_OBJECT,
            hint="choose another prefix, or remove it",
        )
    if number > _KNOWN:
        raise NewerFormatError(
            f"{shown} says format {number}: a newer tritonsync wrote it",
            object_name=FORMAT_OBJECT,
            hint="upgrade this one",
        )
