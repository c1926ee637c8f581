"""Create-only writes into a folder: an object appears whole or not at all, and only one of many writers creates it.

fsspec's own local `create` looks whether the file exists and then opens it: two writers may both win, and a killed one
leaves half an object (fsspec 2026.9, `AbstractFileSystem.pipe_file`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path

__all__ = ["TEMPORARY", "create_file"]

#: How names of files begin that are not objects yet.
TEMPORARY = ".tritonsync-"

#: A writer that is older than this many seconds is dead.
_STALE = 3600.0

# exFAT, some FUSE mounts (gcsfuse, Mountpoint for S3) and some NFS servers have no hard links.
_NO_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EXDEV}
)


def create_file(target: Path, data: bytes) -> None:
    """Write `data` under a random name beside `target`, then link it there.

    Where the filesystem has no hard links the file is renamed onto the target instead: still whole or not at all, but
    the last of two simultaneous writers wins. Object names derive from content, so both wrote the same.

    Raises:
        FileExistsError: the target is there already.
        OSError: the folder cannot be written.
    """
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as exc:
        # A file stands where the folder should be: not what FileExistsError means to the caller.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent)) from exc
    _sweep(target.parent)
    temporary = target.parent / f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex}"
    try:
        temporary.write_bytes(data)
        try:
            os.link(temporary, target)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            temporary.replace(target)
    finally:
        # Gone already after a rename.
        temporary.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left in this one folder."""
    oldest = time.time() - _STALE
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY) and entry.stat().st_mtime < oldest:
                Path(entry.path).unlink(missing_ok=True)
