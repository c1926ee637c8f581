"""The verbs of a bucket as single attempts, in terms of fsspec: each returns, or raises whatever fsspec raises.

Three kinds: an object store spoken to over fsspec's event loop, a folder, and any other filesystem.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tritonsync.remote.filesystem import build
from tritonsync.remote.filesystem import close as close_filesystem
from tritonsync.remote.first_bytes import first_bytes_of_s3
from tritonsync.remote.folder import create_file, find_files, read_file, remove_file
from tritonsync.remote.threads import on_loop, on_thread
from tritonsync.remote.translate import is_past_the_end
from tritonsync.remote.url import Address
from tritonsync.remote.waiting import RetryPolicy

__all__ = ["Backend", "Folder", "ObjectStore", "modified", "over_fsspec"]

#: What S3 and GCS put into one page of a listing, as s3fs and gcsfs ask for it.
_PAGE = 1000


class Backend:
    """A filesystem that fsspec knows; nothing is assumed about it."""

    def __init__(self, filesystem: Any, address: Address) -> None:  # noqa: ANN401
        self._filesystem = filesystem
        self._address = address
        self._root = filesystem._strip_protocol(address.url).rstrip("/")  # noqa: SLF001 - fsspec's own idiom

    def read(self, name: str, count: int, timeout: float) -> bytes:
        """Return the object's first `count` bytes, at least one. FileNotFoundError: there is none, or no bucket."""
        try:
            return self._first(self._path(name), count, timeout)
        except Exception as exc:
            if is_past_the_end(exc):
                return b""  # even the first byte is past the end of an empty object
            raise

    def _first(self, path: str, count: int, timeout: float) -> bytes:
        # A range from the first byte on costs no other request (gcsfs, `_cat_file`, 2026.10).
        data: bytes = self._call("cat_file", path, start=0, end=count, timeout=timeout)
        return data

    def create(self, name: str, data: bytes, timeout: float, *, exclusive: bool) -> None:
        """Write the object whole. FileExistsError: it is there, and `exclusive` was asked for."""
        path = self._path(name)
        self._call("makedirs", path.rpartition("/")[0], exist_ok=True, timeout=timeout)
        self._call("pipe_file", path, data, mode="create" if exclusive else "overwrite", timeout=timeout)

    def find(self, prefix: str, timeout: float) -> dict[str, Mapping[str, Any]]:
        """Return fsspec's `info` of all objects whose name starts with `prefix`, by name relative to the URL."""
        filesystem, path = self._filesystem, self._path(prefix.rstrip("/"))
        try:
            if _walks(filesystem):
                found = on_thread(functools.partial(_walk, filesystem, path), timeout)
            else:
                found = self._call("find", path, detail=True, timeout=timeout)
        except FileNotFoundError:
            return {}
        # Where nothing is below it, adlfs (2026.8) returns a list, of the object of this name if there is one.
        return self._relative(found) if isinstance(found, Mapping) else {}

    def remove(self, name: str, timeout: float) -> None:
        """Delete the object. FileNotFoundError: there is none (not every store says so)."""
        self._call("rm_file", self._path(name), timeout=timeout)

    def pages(self, count: int) -> int:
        """Return how many requests a listing of so many objects takes."""
        return max(1, -(-count // _PAGE))

    def close(self) -> None:
        """Give connections back."""
        close_filesystem(self._filesystem)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _relative(self, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        start = len(self._root) + 1
        return {path[start:]: info for path, info in found.items() if info.get("type", "file") == "file"}

    def _call(self, verb: str, *args: Any, timeout: float, **kwargs: Any) -> Any:  # noqa: ANN401
        filesystem = self._filesystem
        if filesystem.async_impl:
            # The coroutine itself, not fsspec's blocking twin of it: that one cannot be abandoned.
            coroutine = getattr(filesystem, f"_{verb}")(*args, **kwargs)
            return on_loop(filesystem.loop, coroutine, timeout)
        return on_thread(functools.partial(getattr(filesystem, verb), *args, **kwargs), timeout)


def _walks(filesystem: Any) -> bool:  # noqa: ANN401
    """Return whether `find` would be fsspec's own, which takes a folder that cannot be read for empty (2026.9)."""
    from fsspec import AbstractFileSystem

    return not filesystem.async_impl and type(filesystem).find is AbstractFileSystem.find


def _walk(filesystem: Any, top: str) -> dict[str, Mapping[str, Any]]:  # noqa: ANN401
    found: dict[str, Mapping[str, Any]] = {}
    folders = [top]
    while folders:
        folder = folders.pop()
        for info in _entries(filesystem, folder):
            name = info["name"].rstrip("/")
            if info["type"] != "directory":
                found[name] = info
            elif name != folder:
                folders.append(name)
    return dict(sorted(found.items()))


def _entries(filesystem: Any, folder: str) -> Sequence[Mapping[str, Any]]:  # noqa: ANN401
    try:
        entries: Sequence[Mapping[str, Any]] = filesystem.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError:
        if filesystem.isfile(folder):  # not every server says that it is no folder
            return ()
        raise
    return entries


class ObjectStore(Backend):
    """S3 and GCS: no folders, and listings filtered by the server."""

    def create(self, name: str, data: bytes, timeout: float, *, exclusive: bool) -> None:
        """See `Backend`."""
        mode = "create" if exclusive else "overwrite"
        self._call("pipe_file", self._path(name), data, mode=mode, timeout=timeout)

    def find(self, prefix: str, timeout: float) -> dict[str, Mapping[str, Any]]:
        """See `Backend`."""
        # Asked from the bucket's root with a prefix: one request on S3, two for an empty answer on GCS. A plain
        # `find(folder)` that finds nothing also asks whether the folder is an object, and lists again.
        whole = self._address.prefix + prefix
        found = self._call("find", self._address.bucket, prefix=whole, detail=True, timeout=timeout)
        return self._relative(found)


class S3(ObjectStore):
    """S3, over s3fs."""

    def _first(self, path: str, count: int, timeout: float) -> bytes:
        return on_loop(self._filesystem.loop, first_bytes_of_s3(self._filesystem, path, count), timeout)


class GCS(ObjectStore):
    """GCS, over gcsfs."""

    def pages(self, count: int) -> int:
        """See `Backend`."""
        return 2 if count == 0 else super().pages(count)


class Folder(Backend):
    """A folder of this host."""

    def read(self, name: str, count: int, timeout: float) -> bytes:
        """See `Backend`."""
        return on_thread(functools.partial(read_file, self._path(name), count), timeout)

    def create(self, name: str, data: bytes, timeout: float, *, exclusive: bool) -> None:  # noqa: ARG002
        """See `Backend`."""
        on_thread(functools.partial(create_file, Path(self._path(name)), data), timeout)

    def find(self, prefix: str, timeout: float) -> dict[str, Mapping[str, Any]]:
        """See `Backend`."""
        return on_thread(functools.partial(find_files, self._root, prefix), timeout)

    def remove(self, name: str, timeout: float) -> None:
        """See `Backend`."""
        on_thread(functools.partial(remove_file, self._root, name), timeout)


def over_fsspec(address: Address, options: Mapping[str, Any], patience: RetryPolicy) -> Backend:
    """Make the client of this address; it may block."""
    kind: Callable[[Any, Address], Backend] = Backend
    if address.is_s3:
        kind = S3
    elif address.is_gcs:
        kind = GCS
    elif address.is_folder:
        kind = Folder
    return kind(build(address, options, patience), address)


def modified(info: Mapping[str, Any]) -> float | None:
    """Return when an object was last written, in seconds since 1970, from whatever its filesystem calls it."""
    for field in ("LastModified", "last_modified", "mtime", "updated", "modified", "modify", "created"):
        value = info.get(field)
        if isinstance(value, str):
            try:
                if field == "modify":  # FTP's, in UTC: YYYYMMDDHHMMSS, with or without a fraction
                    value = datetime.datetime.strptime(f"{value[:14]}+0000", "%Y%m%d%H%M%S%z")
                else:
                    value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                continue
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    milliseconds = info.get("modificationTime")  # WebHDFS's
    return milliseconds / 1000 if isinstance(milliseconds, (int, float)) else None
