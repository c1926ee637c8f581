"""A folder as a bucket that many hosts write, list and remove in at once, on disks that fail."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tritonsync.errors import AccessDeniedError, RemoteError
from tritonsync.remote.bucket import Bucket
from tritonsync.remote.waiting import RetryPolicy

QUICK = RetryPolicy(pause=0.001, max_pause=0.01)


class Failing(MemoryFileSystem):  # type: ignore[misc]
    """A filesystem whose listings are fsspec's own, over folders that cannot always be read."""

    protocol = "failingls"
    find = fsspec.AbstractFileSystem.find
    store: dict[str, Any] = {}  # noqa: RUF012 - as the class has it
    pseudo_dirs = [""]  # noqa: RUF012

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        fail(path)
        return super().ls(path, detail=detail, **kwargs)


#: What fails: errors by the end of a folder's path, as often as they stand there.
failures: dict[str, list[int]] = {}


def fail(path: object) -> None:
    text = str(path).rstrip("/")
    for end, numbers in failures.items():
        if text.endswith(end) and numbers:
            number = numbers.pop()
            raise OSError(number, os.strerror(number), text)


@pytest.fixture(params=["folder", Failing.protocol])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket with two objects; what reads its folders fails as `failures` says."""
    scandir = os.scandir

    def failing(path: Any = ".") -> Any:
        fail(path)
        return scandir(path)

    fsspec.register_implementation(Failing.protocol, Failing, clobber=True)
    url = str(tmp_path) if request.param == "folder" else f"{Failing.protocol}://{uuid.uuid4().hex}"
    with Bucket(url, patience=QUICK) as opened:
        for name in ("a/b/one", "a/two"):
            opened.create(name, name.encode())
        monkeypatch.setattr(os, "scandir", failing)
        yield opened
    failures.clear()


@pytest.mark.parametrize("folder", ["/a", "/a/b"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(bucket: Bucket, folder: str, number: int) -> None:
    """A sweep would remove what only its lists name."""
    failures[folder] = [number] * 100
    kind, said = (AccessDeniedError, "access denied") if number == errno.EACCES else (RemoteError, os.strerror(number))
    with pytest.raises(kind, match=said) as caught:
        bucket.list("a/")
    assert f"{folder}'" in str(caught.value)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_listing_that_failed_is_made_again(bucket: Bucket, number: int) -> None:
    """A handle is stale where another host has removed a folder and made it anew."""
    failures["/a/b"] = [number]
    assert list(bucket.list("a/")) == ["a/b/one", "a/two"]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR])
def test_a_folder_that_goes_during_a_listing_holds_nothing(bucket: Bucket, number: int) -> None:
    """Others remove at the same time."""
    failures["/a/b"] = [number]
    assert list(bucket.list("a/")) == ["a/two"]


def test_only_regular_files_are_listed(tmp_path: Path) -> None:
    """Neither links, wherever they lead, nor what is still being written; size and time are those of the file."""
    outside, root = tmp_path / "outside", tmp_path / "bucket"
    (outside / "folder").mkdir(parents=True)
    (outside / "folder" / "file").write_bytes(b"x")
    (root / "a").mkdir(parents=True)
    (root / "a" / "object").write_bytes(b"12345")
    os.utime(root / "a" / "object", (1_700_000_000, 1_700_000_000.5))
    (root / "a" / ".tritonsync-1-x").write_bytes(b"half")
    (root / "a" / "link").symlink_to(outside / "folder")
    (root / "a" / "file").symlink_to(outside / "folder" / "file")
    (root / "a" / "nowhere").symlink_to("none")
    os.mkfifo(root / "a" / "pipe")
    for url in (root, outside / "bucket"):
        if url != root:
            url.symlink_to(root)
        with Bucket(str(url)) as bucket:
            listed = bucket.list()
            assert bucket.list("a/") == listed
            assert bucket.list("a/object/") == {}
        assert {name: (info.size, info.modified) for name, info in listed.items()} == {"a/object": (5, 1_700_000_000.5)}
