"""Triton's cache folder: kernels found and collected, and leftovers swept; `emit.py` writes and repairs them.

::

    <triton cache>/[<device>/]                      TRITON_CACHE_DIR or ~/.triton/cache, or Inductor's <cache>/triton
    ├── <kernel hash>/                              52 characters of base32
    │   ├── <name>.cubin, .json, .ptx, ...          one file a compile stage, each renamed into place
    │   ├── __grp__<name>.json                      written last; absolute paths of the others (see group.py)
    │   └── tmp.pid_<pid>_<uuid>/                   a file being written by Triton's FileCacheManager
    ├── <kernel hash>/cuda_utils*.so                helper modules and `*.autotune.json` timings: no group file
    ├── tmp.<uuid>/                                 a kernel being written by PyTorch's TritonBundler
    └── tmp.tritonsync-<pid>-<uuid>                 ... and by tritonsync (emit.py)
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from tritonsync.errors import FormatError
from tritonsync.format.kernel import BINARY_SUFFIXES, Kernel, KernelFile, relocate_out
from tritonsync.local.emit import Emitted, Outcome, emit
from tritonsync.local.files import TEMPORARY_PREFIX, check_owner, disk_errors, read_file, remove_stale
from tritonsync.local.group import UNGROUPED_SUFFIXES, baked_directories, children, is_group
from tritonsync.local.presence import is_elf, is_whole_elf, launch_facts

__all__ = [
    "Emitted",
    "KernelFolder",
    "Outcome",
    "collect",
    "default_triton_dir",
    "emit",
    "scan",
    "size_of",
    "sweep",
]


_HASH = re.compile(r"[A-Z2-7]{52}")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LEFTOVER = re.compile(rf"tmp\.{_UUID}|{re.escape(TEMPORARY_PREFIX)}\d+-{_UUID}")
_LEFTOVER_INSIDE = re.compile(rf"tmp\.pid_\d+_{_UUID}")


@dataclasses.dataclass(frozen=True)
class KernelFolder:
    """A folder that may hold a kernel: its hash, the device it is kept under (None: not kept by device), its path."""

    hash: str
    device: int | None
    path: Path


def default_triton_dir(cache_dir: str | None = None, home: str | None = None) -> Path:
    """Return where plain Triton keeps its cache (triton/knobs.py, 3.6).

    Args:
        cache_dir: the value of TRITON_CACHE_DIR; None or empty: not set.
        home: the value of TRITON_HOME; None or empty: not set.
    """
    if cache_dir:
        return Path(cache_dir).absolute()
    return Path(home).absolute() / ".triton" / "cache" if home else Path.home() / ".triton" / "cache"


def scan(triton_dir: Path) -> Iterator[KernelFolder]:
    """Yield the kernel folders below a Triton cache folder, by device and hash, finished or not; links are none.

    Both layouts are read: `<hash>/` as Triton keeps them, and `<device>/<hash>/` as Inductor does. A missing folder
    holds none.

    Raises:
        UnsafeFolderError: others may write into it.
        LocalCacheError: the folder cannot be listed.
    """
    check_owner(triton_dir)
    yield from _kernel_folders(triton_dir, None)
    for name in _folders(triton_dir):
        if name.isdecimal() or name == "None":  # torch 2.15 keeps kernels for any device under `None`
            yield from _kernel_folders(triton_dir / name, int(name) if name.isdecimal() else None)


def size_of(directory: Path) -> int:
    """Return the bytes of the files in a folder, as far as they can be looked at; 0 where there is none."""
    try:
        with os.scandir(directory) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:
        return 0


def _kernel_folders(directory: Path, device: int | None) -> Iterator[KernelFolder]:
    for name in _folders(directory):
        if _HASH.fullmatch(name):
            yield KernelFolder(name, device, directory / name)


def _folders(directory: Path) -> list[str]:
    with disk_errors("list the cache folder", directory):
        try:
            with os.scandir(directory) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []


def collect(directory: Path, device: int | None) -> Kernel | None:
    """Read a finished kernel from its folder, in stored form.

    The folder's path, and the path that its group was written with if that is another one, become the sentinel. None
    stands for anything that is not a finished kernel: no folder, an empty one, a compile in progress, a group whose
    files are not all there (links do not count), a truncated binary, or a folder that keeps changing while it is read.

    Raises:
        LocalCacheError: a file in it cannot be read, or the folder is a link.
        FormatError: a `.json` file holds the sentinel already, or a name does not fit into a bucket.
    """
    with disk_errors("read the kernel folder", directory):
        for _ in range(3):
            try:
                before = os.lstat(directory)
                if stat.S_ISLNK(before.st_mode):
                    raise OSError(errno.ELOOP, "it is a link, which is not followed")
                contents = _contents(directory)
                after = os.lstat(directory)
            except (FileNotFoundError, NotADirectoryError):
                return None
            # Every file arrives by a rename, which touches the folder: unchanged means that all belong together.
            if (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
                break
        else:
            return None
    if not _is_finished(contents):
        return None
    return Kernel(hash=directory.name, device=device, files=_relocated(contents, directory))


def _contents(directory: Path) -> dict[str, bytes]:
    with os.scandir(directory) as entries:
        # Triton writes no name with a dot in front; network file systems and editors do.
        names = [
            entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)
        ]
    if not any(map(is_group, names)) and not all(name.endswith(UNGROUPED_SUFFIXES) for name in names):
        return {}
    parent = os.fspath(directory)
    return {name: read_file(parent + os.sep + name) for name in names}


def _is_finished(contents: dict[str, bytes]) -> bool:
    for name, payload in contents.items():
        if is_group(name):
            listed = children(payload)
            if listed is None or not listed.keys() <= contents.keys():
                return False
        elif name.endswith((*BINARY_SUFFIXES, *UNGROUPED_SUFFIXES)):
            if not payload or (is_elf(payload) and not is_whole_elf(payload)):
                return False
        elif name.endswith(".json") and launch_facts(payload) is None:
            return False
    return bool(contents)


def _relocated(contents: dict[str, bytes], directory: Path) -> tuple[KernelFile, ...]:
    paths = baked_directories((data for name, data in contents.items() if is_group(name)), directory.name)
    paths |= {os.fspath(directory), os.path.abspath(directory)}
    try:
        return tuple(KernelFile(name, relocate_out(name, payload, paths)) for name, payload in contents.items())
    except FormatError as exc:
        raise FormatError(f"{directory}: {exc}") from exc


def sweep(base: Path) -> int:
    """Remove what killed processes left in the folder of kernel folders `base` more than an hour ago.

    Ours and those of PyTorch's TritonBundler beside the kernel folders, and those of Triton inside them. What cannot be
    removed stays. Return how many were removed.
    """
    removed = 0
    for entry in _entries(base):
        if _LEFTOVER.fullmatch(entry.name):
            removed += remove_stale(entry)
        elif _HASH.fullmatch(entry.name):
            removed += sum(map(remove_stale, _leftovers_inside(entry.path)))
    return removed


def _entries(directory: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []


def _leftovers_inside(directory: str) -> Iterator[os.DirEntry[str]]:
    return (entry for entry in _entries(directory) if _LEFTOVER_INSIDE.fullmatch(entry.name))
