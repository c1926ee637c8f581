"""Files that appear whole or not at all, and the one place where this room's OSErrors get their message.

Everything is written under a random name first and renamed afterwards. Temporary names look like
`tmp.tritonsync-<pid>-<uuid4>`, so that `triton_cache.sweep` knows what a killed process left behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from tritonsync import times
from tritonsync.errors import LocalCacheError

__all__ = [
    "HIDDEN_PREFIX",
    "LOCKS",
    "TEMPORARY_PREFIX",
    "Written",
    "disk_errors",
    "host_lock",
    "read_file",
    "remove_stale",
    "replace_file",
    "temporary_path",
    "write_hidden",
    "write_new",
]

TEMPORARY_PREFIX = "tmp.tritonsync-"
#: Where others list folders, temporary files are hidden as well.
HIDDEN_PREFIX = f".{TEMPORARY_PREFIX}"

# O_BINARY exists on Windows only, where text mode would change line ends.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of a file that was to be written.

    Attributes:
        outcome: `written`; `present`: an equal file was there; `kept`: another file was there, and it stays.
        path: the file.
    """

    outcome: Literal["written", "present", "kept"]
    path: Path


@contextlib.contextmanager
def disk_errors(doing: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError into a LocalCacheError that says what was being done to which path.

    Raises:
        LocalCacheError: in place of any OSError inside the block.
    """
    try:
        yield
    except LocalCacheError:
        raise
    except OSError as exc:
        place = os.fspath(path)
        if exc.filename is not None and exc.filename != place:
            place = f"{place} (at {exc.filename})"
        raise LocalCacheError(f"cannot {doing} {place}: {exc.strerror or exc}", path=os.fspath(path)) from exc


def temporary_path(parent: str, prefix: str = TEMPORARY_PREFIX) -> str:
    """Return a path in `parent` that nothing else uses."""
    return f"{parent}{os.sep}{prefix}{os.getpid()}-{uuid.uuid4()}"


def read_file(path: str) -> bytes:
    """Read a file whole."""
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def write_new(path: str, data: bytes) -> None:
    """Write a file that must not exist yet.

    One open, one write, one close: an emission writes thousands of small files, and a buffered file object costs more
    than these calls.
    """
    descriptor = os.open(path, _CREATE, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def replace_file(path: str, data: bytes, temporary: str) -> None:
    """Write `path`, new or in place of another file; no reader ever sees a part of it.

    Args:
        path: the file.
        data: all of its bytes.
        temporary: an unused path on the same file system (see `temporary_path`).
    """
    try:
        write_new(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_hidden(root: Path, path: Path, data: bytes, *, replace: bool) -> Written:
    """Write one file below `root`; an equal one is left as it is, another one is kept unless `replace`.

    The temporary file lies in `root` itself, with a dot in front: torch takes whatever it lists beside a value for
    another value (codecache.py; 2.13 passes over dots, 2.11 does not).

    Raises:
        LocalCacheError: it cannot be written.
    """
    with disk_errors("write", path):
        try:
            there: bytes | None = read_file(os.fspath(path))
        except FileNotFoundError:
            there = None
        if there == data:
            return Written("present", path)
        if there is not None and not replace:
            return Written("kept", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(os.fspath(path), data, temporary_path(os.fspath(root), HIDDEN_PREFIX))
        return Written("written", path)


def remove_stale(entry: os.DirEntry[str]) -> bool:
    """Remove a leftover file or folder if it is old enough; return whether it is gone. Never raises an OSError."""
    try:
        if time.time() - entry.stat(follow_symlinks=False).st_mtime < times.STALE_AFTER_S:
            return False
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    except OSError:
        return False
    return True


log = logging.getLogger(__name__)

#: The folder of the lock files, inside Inductor's cache folder, and of the notes of `owners.py`. All are empty.
LOCKS = ".tritonsync"


@contextlib.contextmanager
def host_lock(cache_dir: Path, name: str, *, timeout: float | None) -> Iterator[bool]:
    """Hold the lock of that name among the processes that share a cache folder.

    Args:
        cache_dir: the folder they share.
        name: any text.
        timeout: seconds to wait; None waits for ever.

    Yields:
        whether the lock is held. Without it the work may be done twice, never wrongly, so nothing is raised: neither
        when the time is up, nor when the folder does not allow locks (some network file systems do not).
    """
    path = cache_dir / LOCKS / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock"
    lock = FileLock(path, timeout=-1 if timeout is None else timeout)
    held = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        held = True
    except Timeout:
        log.info("another process holds %s for more than %s s; going on without it", path, timeout)
    except (OSError, NotImplementedError) as exc:
        log.info("%s cannot be locked (%s); going on without it", path, exc)
    try:
        yield held
    finally:
        lock.release()
