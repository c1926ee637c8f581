"""Inductor's cache folder, without torch: values and autotune results found and written where torch looks for them.

::

    <cache>/                                     TORCHINDUCTOR_CACHE_DIR or /tmp/torchinductor_<user>
    ├── fxgraph/<key[1:3]>/<key>/<name>          pickled FX values; a key has one for each set of guards
    ├── aotautograd/<key>/<name>                 pickled AOTAutograd values
    ├── dynamo/<key>/entry                       what TORCH_CACHING_PRECOMPILE=1 keeps; key: sha256 of name and line
    ├── dynamo/code_state_<key>.pkl              profile of dynamic shapes (PGO); key: `<job id>:<rank>:<tag>`
    ├── <aa>/<64 hex digits>.best_config         autotune results; <aa>: folder of the kernel's generated .py
    └── triton/<device>/<kernel hash>/           see triton_cache.py

`<name>` is torch's own: the first 51 base32 characters of the value's sha256 (torch/_inductor/codecache.py,
_dynamo/package.py and _dynamo/pgo.py; the same in 2.11, 2.13 and 2.15). Which result of an autotune belongs to which
graph: autotune.py.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import getpass
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tritonsync.errors import FormatError
from tritonsync.format.layout import check_name
from tritonsync.local.files import (
    HIDDEN_PREFIX,
    Written,
    check_owner,
    disk_errors,
    read_file,
    remove_stale,
    write_hidden,
)

__all__ = [
    "VALUE_KINDS",
    "LocalValue",
    "default_inductor_dir",
    "is_intact",
    "pgo_key",
    "public_path",
    "read_value",
    "sweep",
    "triton_dir",
    "value_name",
    "value_path",
    "values",
    "write_value",
]

#: The kinds of bundle whose values lie here.
VALUE_KINDS = ("fx_graph", "aot_autograd", "dynamo", "pgo")

_PGO_NAME = re.compile(r"code_state_(.+)\.pkl")
_NOT_IN_FILE_NAMES = re.compile(r'[<>:"/\\|?*]')


@dataclasses.dataclass(frozen=True)
class LocalValue:
    """A value that lies in Inductor's folder: the kind and key it is found under, and its file."""

    kind: str
    key: str
    path: Path


def default_inductor_dir(given: str | None = None, user: str | None = None) -> Path:
    """Return Inductor's cache folder as torch works it out (torch/_inductor/runtime/cache_dir_utils.py, 2.13).

    Args:
        given: the value of TORCHINDUCTOR_CACHE_DIR; None: not set.
        user: whose folder; None: that of the user who runs this.
    """
    if given is not None:
        return Path(os.path.abspath(given))  # Path.absolute keeps `..`, torch does not
    if user is None:
        user = _user()
    return Path(tempfile.gettempdir(), "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        return f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"


def public_path(path: str) -> str:
    """Return a path as it may be told to others: without this user's home folder, and without a user's name."""
    home = os.path.expanduser("~").rstrip(os.sep)
    if home not in ("", "~") and (path == home or path.startswith(home + os.sep)):
        return f"~{path[len(home) :]}"
    path = re.sub(r"(?<=/home/)[^/]+|(?<=/Users/)[^/]+", "<user>", path)
    for name in (_user(), re.sub(r'[\\/:*?"<>|]', "_", _user())):
        if name not in ("", "root"):  # which is nobody's name
            path = re.sub(rf"(?<![A-Za-z0-9<]){re.escape(name)}(?![A-Za-z0-9>])", "<user>", path)
    return path


def triton_dir(inductor_dir: Path, device: int | None, given: str | None = None) -> Path:
    """Return the folder in which Inductor keeps the Triton kernels of a device (the same file of torch).

    Args:
        inductor_dir: Inductor's cache folder.
        device: the device's index; None: kernels for any device (torch 2.15).
        given: the value of TRITON_CACHE_DIR, which decides alone; None: not set.
    """
    return Path(given) if given is not None else inductor_dir / "triton" / str(device)


def pgo_key(key: str) -> str:
    """Return a PGO key as it stands in a file name: `job:None:` becomes `job_None_`.

    The file does not tell what it was before. So that a bucket has one name for both, this form is the key there.
    """
    return _NOT_IN_FILE_NAMES.sub("_", key)


def values(inductor_dir: Path) -> Iterator[LocalValue]:
    """Yield every value in the folder, sorted by kind, key and name; links are none.

    Raises:
        UnsafeFolderError: others may write into it.
        LocalCacheError: a folder cannot be listed.
    """
    check_owner(inductor_dir)
    for kind, top, depth in (("aot_autograd", "aotautograd", 1), ("dynamo", "dynamo", 1), ("fx_graph", "fxgraph", 2)):
        folders = [inductor_dir / top]
        for _ in range(depth):
            folders = [folder / name for folder in folders for name in _listing(folder, folders=True)]
        for folder in folders:
            for name in _listing(folder, folders=False):
                if kind != "dynamo" or name == "entry":
                    yield LocalValue(kind, folder.name, folder / name)
    for name in _listing(inductor_dir / "dynamo", folders=False):
        if found := _PGO_NAME.fullmatch(name):
            yield LocalValue("pgo", found[1], inductor_dir / "dynamo" / name)


def _listing(directory: Path, *, folders: bool) -> list[str]:
    with disk_errors("list the cache folder", directory):
        try:
            with os.scandir(directory) as entries:
                return sorted(
                    entry.name
                    for entry in entries
                    if not entry.name.startswith(".")
                    and (entry.is_dir(follow_symlinks=False) if folders else entry.is_file(follow_symlinks=False))
                )
        except (FileNotFoundError, NotADirectoryError):
            return []


def read_value(inductor_dir: Path, value: LocalValue) -> bytes | None:
    """Read a value that lies in this folder; None if it is gone meanwhile.

    Raises:
        UnsafeFolderError: others may write into the folder.
        LocalCacheError: it cannot be read.
    """
    check_owner(inductor_dir)
    with disk_errors("read the value", value.path):
        try:
            return read_file(os.fspath(value.path))
        except FileNotFoundError:
            return None


def is_intact(value: LocalValue, data: bytes) -> bool:
    """Whether a value's file holds what torch wrote: FX and AOTAutograd values are named by their content."""
    if value.kind not in ("fx_graph", "aot_autograd"):
        return True
    return value.path.name == value_name(data)


def value_name(data: bytes) -> str:
    """Return the file name of an FX or AOTAutograd value."""
    return _content_name(hashlib.sha256(data).hexdigest())


def _content_name(sha256: str) -> str:
    return base64.b32encode(bytes.fromhex(sha256))[:51].decode().lower()


def write_value(inductor_dir: Path, kind: str, key: str, data: bytes, *, replace: bool = False) -> Written:
    """Write a value where torch will find it.

    FX and AOTAutograd values are named by their content, so another file in that place is a damaged one, and is
    replaced. For `dynamo` and `pgo` there is one file a key, whose content changes; the one that is here stays, unless
    `replace` is given.

    Raises:
        FormatError: the kind has no values here, or the key cannot be one of torch's.
        LocalCacheError: the file cannot be written.
    """
    path = value_path(inductor_dir, kind, key, hashlib.sha256(data).hexdigest())
    return write_hidden(inductor_dir, path, data, replace=replace or kind in ("fx_graph", "aot_autograd"))


def value_path(inductor_dir: Path, kind: str, key: str, sha256: str) -> Path:
    """Return the file in which torch looks for a value whose bytes have this sha256 (64 hex digits).

    Raises:
        FormatError: the kind has no values here, or the key cannot be one of torch's.
    """
    if kind == "pgo":
        name = check_name(pgo_key(key), "PGO key")
        return inductor_dir / "dynamo" / f"code_state_{name}.pkl"
    check_name(key, f"{kind} key")
    if key.startswith("."):
        raise FormatError(f"{kind} key {key!r} begins with a dot, which torch's never do")
    if kind == "dynamo":
        return inductor_dir / "dynamo" / key / "entry"
    name = _content_name(sha256)
    if kind == "aot_autograd":
        return inductor_dir / "aotautograd" / key / name
    if kind == "fx_graph" and len(key) >= 3:
        return inductor_dir / "fxgraph" / check_name(key[1:3], f"{kind} key") / key / name
    raise FormatError(f"a {kind} value of key {key!r} has no place in Inductor's cache folder")


def sweep(inductor_dir: Path) -> int:
    """Remove what killed processes left in Inductor's folder more than an hour ago; return how many files."""
    with contextlib.suppress(OSError), os.scandir(inductor_dir) as entries:
        return sum(remove_stale(entry) for entry in list(entries) if entry.name.startswith(HIDDEN_PREFIX))
    return 0
