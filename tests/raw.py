"""A bucket as tests see it: objects read, changed and removed without the code under test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import fsspec

from tritonsync.remote.bucket import Bucket
from tritonsync.store import Store


class RawBucket:
    """A URL with what is needed to reach it.

    Looking into it goes through a client of its own, closed at the end of the `with` block like every bucket that was
    opened here.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.options = dict(options or {})
        self._opened: list[Bucket] = []

    def __enter__(self) -> RawBucket:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, *_exc: object) -> None:
        for bucket in self._opened:
            bucket.close()

    @cached_property
    def _root(self) -> tuple[Any, str]:
        if self.url.startswith("gs://"):
            # The class that fsspec would choose asks a gRPC service first, for minutes.
            import gcsfs.core

            fs = gcsfs.core.GCSFileSystem(use_listings_cache=False, **self.options)
            return fs, fs._strip_protocol(self.url) + "/"
        given = {"use_listings_cache": False} if "://" in self.url else {"auto_mkdir": True}
        fs, root = fsspec.core.url_to_fs(self.url, **given, **self.options)
        return fs, root.rstrip("/") + "/"

    def bucket(self, **given: Any) -> Bucket:
        """Open it as the program does."""
        bucket = Bucket(self.url, storage_options=self.options, **given)
        self._opened.append(bucket)
        return bucket

    def store(self, **given: Any) -> Store:
        """Open a store on it."""
        return Store(self.bucket(), **given)

    def names(self, pattern: str = "") -> list[str]:
        """List the objects whose names hold the pattern."""
        fs, root = self._root
        found = fs.find(root)
        return sorted(name[len(root) :] for name in found if re.search(pattern, name[len(root) :]))

    def only(self, pattern: str) -> str:
        """Name the one object whose name holds the pattern."""
        [name] = self.names(pattern)
        return name

    def read(self, name: str) -> bytes:
        """Return an object's bytes."""
        fs, root = self._root
        data: bytes = fs.cat_file(root + name)
        return data

    def contents(self, pattern: str = "") -> dict[str, bytes]:
        """Return names and bytes."""
        return {name: self.read(name) for name in self.names(pattern)}

    def write(self, name: str, data: bytes) -> None:
        """Overwrite an object."""
        fs, root = self._root
        fs.pipe_file(root + name, data)

    def delete(self, name: str) -> None:
        """Remove an object."""
        fs, root = self._root
        fs.rm_file(root + name)

    def damage(self, name: str, how: str) -> None:
        """Flip a byte, truncate, pad, empty or delete an object."""
        data = self.read(name)
        if how == "flip":
            changed = bytearray(data)
            changed[len(data) // 2] ^= 1
            self.write(name, bytes(changed))
        elif how == "truncate":
            self.write(name, data[: len(data) // 2])
        elif how == "pad":
            self.write(name, data + b"\0")
        elif how == "empty":
            self.write(name, b"")
        else:
            self.delete(name)
