"""A folder as a bucket that many hosts write, list and remove in at once, on disks that fail."""

from __future__ import annotations

import errno
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.servers import LIMIT
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


def test_folders_go_with_their_last_object(tmp_path: Path) -> None:
    """Each that stays empty would be opened by every listing; the bucket itself, and what holds something, stays."""
    with Bucket(str(tmp_path / "bucket")) as bucket:
        for name in ("a/b/c/one", "a/b/d/two", "a/three"):
            bucket.create(name, b"x")
        bucket.delete("a/b/c/one")
        assert sorted(path.name for path in (tmp_path / "bucket" / "a").rglob("*")) == ["b", "d", "three", "two"]
        bucket.delete("a/b/d/two")
        assert [path.name for path in (tmp_path / "bucket" / "a").rglob("*")] == ["three"]
        bucket.delete("a/three")
        assert list((tmp_path / "bucket").rglob("*")) == []
        assert (tmp_path / "bucket").is_dir()
        assert bucket.create("a/b/c/one", b"y")


def test_a_folder_that_goes_before_its_first_object_is_there_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have removed what was last in it, at the worst of times."""
    make, left = Path.mkdir, [2]

    def make_and_lose(folder: Path, *args: Any, **kwargs: Any) -> None:
        make(folder, *args, **kwargs)
        if left[0]:
            left[0] -= 1
            folder.rmdir()

    monkeypatch.setattr(Path, "mkdir", make_and_lose)
    with Bucket(str(tmp_path)) as bucket:
        assert bucket.create("a/b/object", b"x")
        assert left == [0]
        assert bucket.get("a/b/object", limit=LIMIT) == b"x"


def test_objects_come_and_go_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever removes the last object of a folder takes it from those that are about to write there."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # more often
    end = threading.Event()
    with Bucket(str(tmp_path)) as bucket:

        def remove() -> None:
            while not end.is_set():
                for number in range(2):
                    bucket.delete(f"a/{number}/b/object")

        threads = [threading.Thread(target=remove) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            created = [bucket.create(f"a/{number % 2}/b/object", b"x") for number in range(500)]
        finally:
            end.set()
            for thread in threads:
                thread.join()
    assert created.count(True) > 1
