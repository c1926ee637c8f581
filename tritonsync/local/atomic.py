"""Files that appear whole or not at all, and the one place where this room's OSErrors get their message.

Everything is written under a random name first and renamed afterwards. Temporary names look like
`tmp.tritonsync-<pid>-<uuid4>`, so that `tritondir.sweep` knows what a killed process left behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tritonsync.errors import LocalCacheError

__all__ = [
    "HIDDEN_PREFIX",
    "STALE_AFTER_S",
    "TEMPORARY_PREFIX",
    "Written",
    "disk_errors",
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
#: Leftovers younger than this (seconds) may still be in use.
STALE_AFTER_S = 3600

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
        raise LocalCacheError(f"cannot {doing} {place}: {exc.strerror or exc}") from exc


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
        if time.time() - entry.stat(follow_symlinks=False).st_mtime < STALE_AFTER_S:
            return False
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    except OSError:
        return False
    return True
