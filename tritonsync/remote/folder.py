"""A folder of this host as a bucket: objects are files, written whole and never replaced.

Many hosts may write, list and remove at once, over a network file system too. Folders come with the first file in them
and go with the last, as in an object store: a bucket that is swept does not keep what it once held as empty folders,
each of which a listing would have to open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from tritonsync import times
from tritonsync.errors import UnfitObjectError

__all__ = ["create_file", "find_files", "read_file", "remove_file"]

#: How names of files begin that are not objects yet.
TEMPORARY = ".tritonsync-"

#: How often a folder is made anew that others remove as soon as it is there.
_TRIES = 10

# exFAT, some FUSE mounts (gcsfuse, Mountpoint for S3) and some NFS servers have no hard links.
_NO_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EXDEV}
)


def create_file(target: Path, data: bytes) -> None:
    """Write `data` under a random name beside `target`, then link it there.

    The data is on the disk before the name is, and the name when this returns: a power cut leaves no object that is
    empty or cut short, which no writer could replace.

    Where the filesystem has no hard links the file is renamed onto the target instead: still whole or not at all, but
    the last of two simultaneous writers wins. Object names derive from content, so both wrote the same.

    Raises:
        FileExistsError: the target is there already.
        OSError: the folder cannot be written.
    """
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    temporary = target.parent / f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex}"
    file = _open_new(temporary)
    try:
        with file:
            _sweep(target.parent)
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        try:
            os.link(temporary, target)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            temporary.replace(target)
    finally:
        # Gone already after a rename.
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _open_new(path: Path, tries: int = _TRIES) -> FileIO:
    """Open a file that is not there yet, in a folder that whoever removes its last file may remove any time.

    With a file in it the folder stays.

    Raises:
        NotADirectoryError: a file stands where the folder should be.
        OSError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb", buffering=0)
    except (FileNotFoundError, FileExistsError) as exc:
        # `mkdir` says the second also of a folder that was there a moment ago.
        if tries > 1:
            return _open_new(path, tries - 1)
        if isinstance(exc, FileExistsError):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from exc
        raise


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk; Windows and some network file systems know no such thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_file(path: str, count: int) -> bytes:
    """Return the first `count` bytes of a file; links to regular files are followed.

    Raises:
        UnfitObjectError: it is a device, a pipe, a socket or a folder: what has no size, or no end.
        OSError: it cannot be read.
    """
    # A pipe without a writer would hold a blocking `open` up for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as exc:
        if exc.errno in _NOT_OPENED:
            raise UnfitObjectError(f"{path} is no regular file", path=path) from exc
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnfitObjectError(f"{path} is no regular file", path=path)
        parts: list[bytes] = []
        # Not `count` at once, for which memory would be set aside before it is known how much there is.
        while count > 0 and (part := os.read(descriptor, min(count, max(status.st_size, _PART)))):
            parts.append(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left in this one folder."""
    oldest = time.time() - times.STALE_AFTER_S
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY) and entry.stat().st_mtime < oldest:
                Path(entry.path).unlink(missing_ok=True)


#: How `open` refuses a socket, a device without a driver, links that lead in a circle, and a folder.
_NOT_OPENED = frozenset({errno.ENXIO, errno.ENODEV, errno.ELOOP, errno.EISDIR})
#: Read at a time of a file that was empty when it was opened.
_PART = 64 * 1024


def find_files(root: str, prefix: str) -> dict[str, Mapping[str, Any]]:
    """Return size in bytes and `mtime` of all regular files below `root/prefix`, by name relative to `root`.

    Links are not followed. What is not there, or goes meanwhile, holds nothing.

    Args:
        root: of the bucket.
        prefix: empty, or with a slash at its end.

    Raises:
        OSError: a folder cannot be read. It is not taken for an empty one: what is not listed is removed by a sweep, or
            what only it lists.
    """
    found: dict[str, Mapping[str, Any]] = {}
    folders = [prefix]
    while folders:
        folder = folders.pop()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{folder}{entry.name}/")
                elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(TEMPORARY):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        found[folder + entry.name] = {"size": status.st_size, "mtime": status.st_mtime}
    return dict(sorted(found.items()))


def remove_file(root: str, name: str) -> None:
    """Remove a file, and the folders below `root` that are empty without it.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be removed.
    """
    file = Path(root, name)
    file.unlink()
    with contextlib.suppress(OSError):  # the first that holds something ends it
        for folder in file.parents[: name.count("/")]:
            folder.rmdir()
