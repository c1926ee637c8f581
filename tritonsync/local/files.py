"""Files that appear whole or not at all, in folders that others cannot write into.

This is also the one place where this room's OSErrors get their message. Everything is written under a random name
first and renamed afterwards. Temporary names look like `tmp.tritonsync-<pid>-<uuid4>`, so that `triton_cache.sweep`
knows what a killed process left behind. Links are not followed: through one, another file of ours would be read into a
bucket, or overwritten.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tritonsync import times
from tritonsync.errors import LocalCacheError, UnsafeFolderError

__all__ = [
    "HIDDEN_PREFIX",
    "LOCKS",
    "TEMPORARY_PREFIX",
    "Written",
    "append_to_file",
    "check_owner",
    "disk_errors",
    "host_lock",
    "is_link",
    "make_own_folder",
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
# Without O_NONBLOCK, opening a pipe would wait for somebody at its other end.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | _CAREFULLY
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _CAREFULLY


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


def read_file(path: str, limit: int | None = None) -> bytes:
    """Read a regular file whole; anything else, a link included, is an OSError, and so is one of more bytes."""
    with open(path, "rb", buffering=0, opener=lambda path, _: _open_regular(path, _READ)) as file:
        if limit is not None and os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", path)
        return file.readall()


def append_to_file(path: str, data: bytes, variable: str) -> None:
    """Add to the end of a regular file in one write, and make the file if there is none; what others add stays whole.

    Args:
        path: of the file.
        data: what is added.
        variable: what names the file, for messages.

    Raises:
        OSError: it cannot be written; or it is another thing, or what somebody else has put into a folder of all.
    """
    descriptor = _open_regular(path, _APPEND)
    try:
        if hasattr(os, "geteuid") and os.fstat(descriptor).st_uid not in (os.geteuid(), 0):
            check_owner(os.path.dirname(os.path.abspath(path)), variable)  # in a safe one nobody can have put it
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _open_regular(path: str, flags: int) -> int:
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link, which is not followed", path) from exc
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder `open` says so itself
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return descriptor


def is_link(path: str | os.PathLike[str]) -> bool:
    """Whether this is a symbolic link, wherever it leads."""
    return os.path.islink(path)


def check_owner(folder: str | os.PathLike[str], variables: str = "TORCHINDUCTOR_CACHE_DIR or TRITON_CACHE_DIR") -> None:
    """Check that nobody else can have put anything into a cache folder: whoever can, has their code run here.

    A folder has to belong to this user or to root, and so has a link that leads to it; and it may not be one into which
    everybody may write. What a group shares is its own decision. A missing folder will be made by this user, so of the
    nearest one above it that is there only the owner counts, who could put another in its place. Volumes are
    exceptions, because it takes root to mount one: a mounted folder that everybody may write into is taken where it has
    no sticky bit (a Kubernetes `emptyDir`; public folders such as /tmp have one), and root, as in a container, takes
    one of another user who owns the mounted folder itself.

    Args:
        folder: the folder.
        variables: what names it, for the message.

    Raises:
        UnsafeFolderError: it is neither to be read nor to be written.
        LocalCacheError: it cannot be looked at.
    """
    if not hasattr(os, "geteuid"):
        return
    folder = os.fspath(folder)
    with disk_errors("look at the cache folder", folder):
        there = _nearest(folder)
        why = _why_unsafe(there, is_above=there != folder)
    if why is None:
        return
    what, todo = f"the cache folder {folder} {why}", "Make it yours alone (chown, chmod o-w)"
    if there != folder:
        what, todo = f"the cache folder {folder} is missing, and {there} above it {why}", "Make it (mkdir -m 700)"
    raise UnsafeFolderError(
        f"{what}, so others could have put code into it; it is neither read nor written. {todo}, or name another as "
        f"{variables}",
        path=folder,
    )


def _nearest(folder: str) -> str:
    """Return a folder, or the nearest above it that is there; a link is there, wherever it leads."""
    while True:
        try:
            os.lstat(folder)
        except (FileNotFoundError, NotADirectoryError):  # noqa: PERF203 - it is few folders
            folder = os.path.dirname(folder) or os.curdir
        else:
            return folder


def _why_unsafe(folder: str, *, is_above: bool) -> str | None:
    """Say why others can have put something into a folder that is there, or one below it; None: they cannot."""
    found = [os.lstat(folder)]
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # nothing is made where a link leads to nothing
        found.append(os.stat(folder))
    for owner in (each.st_uid for each in found):
        if owner not in (os.geteuid(), 0) and not (os.geteuid() == 0 and _is_volume_of(owner, folder)):
            return f"belongs to another user (uid {owner})"
    mode = found[-1].st_mode
    is_volume = not mode & stat.S_ISVTX and os.path.ismount(folder)
    if mode & stat.S_IWOTH and not stat.S_ISLNK(mode) and not is_volume and not is_above:
        return f"is one that everybody may write into (mode {stat.S_IMODE(mode):o})"
    return None


def _is_volume_of(owner: int, folder: str | os.PathLike[str]) -> bool:
    """Whether the topmost of the folders of this owner, from this one up, is a mounted one in a place of root's."""
    top = os.path.realpath(folder)
    while (parent := os.path.dirname(top)) != top and os.stat(parent).st_uid == owner:
        top = parent
    above = os.stat(parent)
    return os.path.ismount(top) and above.st_uid == 0 and not above.st_mode & stat.S_IWOTH


def write_new(path: str, data: bytes, mode: int = 0o666) -> None:
    """Write a file that must not exist yet.

    One open, one write, one close: an emission writes thousands of small files, and a buffered file object costs more
    than these calls.
    """
    descriptor = os.open(path, _CREATE, mode)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def replace_file(path: str, data: bytes, temporary: str, mode: int = 0o666) -> None:
    """Write `path`, new or in place of another file; no reader ever sees a part of it.

    Args:
        path: the file.
        data: all of its bytes.
        temporary: an unused path on the same file system (see `temporary_path`).
        mode: of the file, less the process's umask.
    """
    try:
        write_new(temporary, data, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_hidden(root: Path, path: Path, data: bytes, *, replace: bool) -> Written:
    """Write one file below `root`; an equal one is left as it is, another one is kept unless `replace`.

    The temporary file lies in `root` itself, with a dot in front: torch takes whatever it lists beside a value for
    another value (codecache.py; 2.13 passes over dots, 2.11 does not). A link is another file, and is not followed.

    Raises:
        UnsafeFolderError: others may write into `root`.
        LocalCacheError: it cannot be written.
    """
    check_owner(root)
    with disk_errors("write", path):
        is_there, there = is_link(path), b""
        if not is_there:
            with contextlib.suppress(FileNotFoundError):
                there, is_there = read_file(os.fspath(path)), True
            if is_there and there == data:
                return Written("present", path)
        if is_there and not replace:
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

#: The folder of the lock files, inside Inductor's cache folder, of the notes of `owners.py`, and of what the last run
#: said (watch/last_run.py).
LOCKS = ".tritonsync"

_waited_in_vain = 0.0


@contextlib.contextmanager
def host_lock(cache_dir: Path, name: str, *, timeout: float | None) -> Iterator[bool]:
    """Hold the lock of that name among the processes of this user that share a cache folder.

    Whoever holds it may be stopped, or hold it for ever: a lock is waited for at most `times.LOCK_S`, and those that
    are not to be had cost a process at most `times.LOCKS_S` in all.

    Args:
        cache_dir: the folder they share.
        name: any text.
        timeout: seconds to wait at most, if less; None: as long as may be.

    Yields:
        whether the lock is held. Without it the work may be done twice, never wrongly, so nothing is raised: neither
        when the time is up, nor when the folder does not allow locks (some network file systems do not).
    """
    global _waited_in_vain
    from filelock import FileLock, Timeout  # takes longer to import than this room

    path = cache_dir / LOCKS / f"{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:32]}.lock"
    wait = max(0.0, min(times.LOCK_S, times.LOCKS_S - _waited_in_vain, times.LOCK_S if timeout is None else timeout))
    lock = FileLock(path, timeout=wait, mode=0o600)
    held = False
    try:
        make_own_folder(path.parent)
        lock.acquire()
        held = True
    except Timeout:
        _waited_in_vain += wait
        log.info("another process holds %s for more than %.1f s; going on without it", path, wait)
    except (OSError, NotImplementedError) as exc:
        log.info("%s cannot be locked (%s); going on without it", path, exc)
    try:
        yield held
    finally:
        lock.release()


def make_own_folder(folder: Path) -> None:
    """Make a folder of our own, for this user alone: nobody else can hold a lock, or put a link in its place.

    Raises:
        OSError: it is not this user's.
    """
    check_owner(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
        raise PermissionError(errno.EPERM, "it is not a folder of this user", str(folder))
    if found.st_mode & 0o077:
        folder.chmod(0o700)
