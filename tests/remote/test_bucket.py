"""One contract, kept by every kind of bucket."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.servers import LIMIT, Place, take_engine, upload_to_gcs
from tritonsync.errors import (
    FormatError,
    HostileNameError,
    NewerFormatError,
    RemoteError,
    RemoteOffError,
    SettingsError,
    UnfitObjectError,
)
from tritonsync.format.layout import FORMAT_CONTENT, FORMAT_OBJECT
from tritonsync.remote.bucket import Bucket

#: Places, by the name of the fixture or the kind of URL, and the engine where there are two. Only rclone's ignores the
#: condition of create-only writes.
KINDS = (
    "memory",
    "folder",
    "file-url",
    "s3_place",
    "s3_place obstore",
    "rclone_place",
    "rclone_place obstore",
    "gcs_place",
)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place that is empty and that nobody else uses."""
    kind, _, engine = request.param.partition(" ")
    if kind.endswith("_place"):
        take_engine(engine or "s3fs", monkeypatch)
        found = request.getfixturevalue(kind)
        assert isinstance(found, Place)
        return found
    folder = tmp_path / "bucket with space" / "prefix"
    url = {"memory": f"memory://{uuid.uuid4().hex}/prefix", "folder": str(folder), "file-url": f"file://{folder}"}
    return Place(url[request.param], {}, "", {}, "")


@pytest.fixture
def bucket(place: Place) -> Iterator[Bucket]:
    with Bucket(place.url, storage_options=place.options) as opened:
        yield opened


@pytest.fixture
def put(place: Place) -> Callable[[str, bytes], None]:
    """Write an object without the code under test, over whatever is there."""

    def write(name: str, data: bytes) -> None:
        if place.url.startswith("gs://"):
            # Over HTTP: gcsfs' own default class asks a gRPC service first, which no emulator has.
            upload_to_gcs(place, name, data)
            return
        filesystem = fsspec.filesystem("file", auto_mkdir=True)
        if "://" in place.url and not place.url.startswith("file://"):
            filesystem = fsspec.filesystem(place.url.partition("://")[0], **place.options)
        filesystem.pipe_file(f"{place.url}/{name}", data)

    return write


def honours_conditions(place: Place) -> bool:
    return place.bucket != "bucket"  # rclone's


class TestContract:
    """What callers may rely on, wherever the objects are."""

    def test_get_returns_what_create_wrote(self, bucket: Bucket) -> None:
        """An object comes back byte for byte."""
        data = bytes(range(256)) * 100
        assert bucket.create("kernels/HASH/id/name.cubin", data)
        assert bucket.get("kernels/HASH/id/name.cubin", limit=LIMIT) == data

    def test_get_of_a_missing_object_is_none(self, bucket: Bucket) -> None:
        """A miss is a value, in a place where nothing is, and beside another object."""
        assert bucket.get("kernels/none", limit=LIMIT) is None
        bucket.create("kernels/other", b"x")
        assert bucket.get("kernels/none", limit=LIMIT) is None

    def test_an_empty_object_is_not_a_miss(self, bucket: Bucket) -> None:
        """No bytes and no object are told apart."""
        bucket.create("empty", b"")
        assert bucket.get("empty", limit=LIMIT) == b""

    def test_an_object_above_its_limit_is_refused_and_hardly_read(self, bucket: Bucket) -> None:
        """The other side does not choose how much memory is spent: one byte above the limit is the last one read."""
        bucket.create("a/object", bytes(100_000))
        before = bucket.stats
        for limit in (0, 9, 99_999):
            with pytest.raises(UnfitObjectError, match=f"a/object has more than the {limit} bytes") as caught:
                bucket.get("a/object", limit=limit)
            assert caught.value.object_name == "a/object"
        assert bucket.stats.bytes_down - before.bytes_down == 1 + 10 + 100_000
        assert bucket.stats.requests - before.requests == 3
        assert bucket.get("a/object", limit=100_000) == bytes(100_000)
        found = bucket.get_many({"a/object": 1, "a/none": 1})
        assert isinstance(found["a/object"], UnfitObjectError)
        assert found["a/none"] is None

    def test_an_object_of_nothing_keeps_any_limit(self, bucket: Bucket) -> None:
        """A range of an empty object is refused by object stores, and is no error here."""
        bucket.create("empty", b"")
        assert [bucket.get("empty", limit=limit) for limit in (0, 1, LIMIT)] == [b"", b"", b""]

    def test_a_format_object_that_is_too_large_is_none(self, bucket: Bucket, put: Callable[[str, bytes], None]) -> None:
        """It is said to be none, and is not read."""
        put(FORMAT_OBJECT, FORMAT_CONTENT + b" " * 100_000)
        with pytest.raises(FormatError, match="is no format object of tritonsync"):
            bucket.probe()
        assert bucket.stats.bytes_down < 10_000

    def test_create_never_replaces(self, bucket: Bucket, place: Place) -> None:
        """The second writer learns that the object exists, and the first one's bytes stay."""
        assert bucket.create("a/object", b"first")
        if honours_conditions(place):
            assert not bucket.create("a/object", b"second")
            assert bucket.get("a/object", limit=LIMIT) == b"first"
        else:
            assert bucket.create("a/object", b"second")
            assert bucket.get("a/object", limit=LIMIT) == b"second"

    def test_get_sees_what_another_writer_put_after_a_listing(
        self, bucket: Bucket, put: Callable[[str, bytes], None]
    ) -> None:
        """No listing is remembered: a new object of somebody else is neither missing nor unlisted."""
        assert bucket.list("a/") == {}
        put("a/new", b"bytes")
        assert bucket.get("a/new", limit=LIMIT) == b"bytes"
        assert list(bucket.list("a/")) == ["a/new"]

    def test_get_many_tells_missing_from_present(self, bucket: Bucket) -> None:
        """Each name has its answer; more names than connections are no trouble."""
        names = [f"many/{number:03}" for number in range(50)]
        for name in names[::2]:
            bucket.create(name, name.encode())
        expected = {name: (name.encode() if number % 2 == 0 else None) for number, name in enumerate(names)}
        assert bucket.get_many(dict.fromkeys(names, LIMIT)) == expected
        assert bucket.get_many({}) == {}

    def test_list_gives_names_sizes_and_times_below_a_prefix(self, bucket: Bucket) -> None:
        """Names are relative to the URL, and a prefix is a folder: `a/b/` does not hold `a/bc`."""
        for name in ("a/b/one", "a/b/c/two", "a/bc", "top"):
            bucket.create(name, name.encode())
        listed = bucket.list("a/b/")
        assert {name: info.size for name, info in listed.items()} == {"a/b/one": 7, "a/b/c/two": 9}
        for info in listed.values():
            assert info.modified is not None
            assert abs(info.modified - time.time()) < 3600
        assert set(bucket.list("")) == {"a/b/one", "a/b/c/two", "a/bc", "top"}
        assert bucket.list("none/") == {}

    def test_delete_removes_and_takes_a_missing_object_as_done(self, bucket: Bucket) -> None:
        """After a delete the object is missing, and can be created again."""
        bucket.create("a/object", b"x")
        bucket.delete("a/object")
        bucket.delete("a/object")
        assert bucket.get("a/object", limit=LIMIT) is None
        assert bucket.create("a/object", b"y")

    def test_probe_writes_the_format_object_once(self, bucket: Bucket) -> None:
        """The first probe creates the format object, later ones find it."""
        assert bucket.probe(write=False) == "read-only"
        assert bucket.get(FORMAT_OBJECT, limit=LIMIT) is None
        assert bucket.probe() == "read-write"
        assert bucket.get(FORMAT_OBJECT, limit=LIMIT) == FORMAT_CONTENT
        assert bucket.probe() == "read-write"

    def test_probe_refuses_a_newer_format(self, bucket: Bucket, put: Callable[[str, bytes], None]) -> None:
        """A bucket of a newer tritonsync is left as it is, and said to be one."""
        put(FORMAT_OBJECT, b'{"format": 2}')
        with pytest.raises(NewerFormatError, match=r"tritonsync\.json says format 2.*upgrade"):
            bucket.probe()
        assert bucket.get(FORMAT_OBJECT, limit=LIMIT) == b'{"format": 2}'

    def test_probe_refuses_a_file_that_says_no_format(self, bucket: Bucket, put: Callable[[str, bytes], None]) -> None:
        """A file of that name that says no format is not taken for the format object."""
        for content in (b"", b"{", b"[1]", b"{}", b'{"format": "1"}', b'{"format": 0}', b'{"format": true}', b"\xff"):
            put(FORMAT_OBJECT, content)
            with pytest.raises(FormatError, match="is no format object of tritonsync"):
                bucket.probe()

    def test_names_that_could_leave_the_prefix_are_refused(self, bucket: Bucket) -> None:
        """A name is parts of harmless characters, and stays below the limit of object stores."""
        for name in ("", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a b", "a\\b", "é", "a\0", "a" * 256):
            with pytest.raises(HostileNameError):
                bucket.get(name, limit=LIMIT)
            with pytest.raises(HostileNameError):
                bucket.create(name, b"")
        with pytest.raises(HostileNameError, match="1024"):
            bucket.delete("/".join(["a" * 200] * 6))
        for prefix in ("a", "/", "../", "a//"):
            with pytest.raises(HostileNameError):
                bucket.list(prefix)

    def test_foreign_names_are_not_listed(self, bucket: Bucket, put: Callable[[str, bytes], None]) -> None:
        """What no verb would accept is not offered."""
        bucket.create("a/good", b"x")
        put("a/with space", b"x")
        assert list(bucket.list("a/")) == ["a/good"]

    def test_no_time_left_asks_nobody(self, bucket: Bucket) -> None:
        """A spent budget, passed as time-out, is told from a slow bucket."""
        for timeout in (0.0, -1.0):
            with pytest.raises(RemoteOffError, match="no time left"):
                bucket.get("a", limit=LIMIT, timeout=timeout)
        assert isinstance(bucket.get_many({"a": LIMIT}, timeout=0.0)["a"], RemoteOffError)
        assert bucket.stats.requests == 0

    def test_stats_count_objects_and_bytes(self, bucket: Bucket, place: Place) -> None:
        """Bytes are those of contents; what existed before is not counted as created."""
        bucket.create("a", b"12345")
        bucket.get("a", limit=LIMIT)
        bucket.get("missing", limit=LIMIT)
        stats = bucket.stats
        assert (stats.requests, stats.bytes_up, stats.bytes_down, stats.objects_created) == (3, 5, 5, 1)
        if honours_conditions(place):
            bucket.create("a", b"12345")
            assert (bucket.stats.bytes_up, bucket.stats.objects_created) == (5, 1)

    def test_sixteen_threads_share_a_bucket(self, place: Place) -> None:
        """Threads that all begin with the first verb get right answers, and one of them creates."""
        together = threading.Barrier(16)
        created: list[bool] = []
        wrong: list[object] = []

        shared = Bucket(place.url, storage_options=place.options)

        def work(number: int) -> None:
            together.wait()
            shared.create(f"own/{number}", str(number).encode())
            created.append(shared.create("shared", b"same"))
            if not honours_conditions(place):
                # Every create replaces the object, and rclone has none or half of it for a moment (1.75).
                together.wait()
            found = shared.get(f"own/{number}", limit=LIMIT), shared.get("shared", limit=LIMIT)
            if found != (str(number).encode(), b"same"):
                wrong.append((number, found))

        with shared:
            threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not wrong
            assert len(created) == 16
            # In memory, "create" is fsspec's: looked up, then written. moto does the same, but for a moment only.
            if place.url.startswith("s3:") and honours_conditions(place):
                assert 1 <= created.count(True) < 16
            elif honours_conditions(place) and not place.url.startswith("memory:"):
                assert created.count(True) == 1

    def test_a_closed_bucket_opens_again(self, bucket: Bucket) -> None:
        """Closing gives connections back and forgets nothing else."""
        bucket.create("a", b"x")
        bucket.close()
        bucket.close()
        assert bucket.get("a", limit=LIMIT) == b"x"

    def test_a_slash_at_the_end_of_the_url_changes_nothing(self, bucket: Bucket, place: Place) -> None:
        """Both spellings are one bucket."""
        bucket.create("a/object", b"x")
        with Bucket(place.url + "/", storage_options=place.options) as other:
            assert other.url == bucket.url
            assert other.get("a/object", limit=LIMIT) == b"x"
            assert list(other.list("")) == ["a/object"]


@pytest.mark.parametrize("kind", ["s3_place", "gcs_place"])
def test_a_bucket_without_a_prefix_is_used_from_its_root(kind: str, request: pytest.FixtureRequest) -> None:
    """A URL may name a bucket and nothing else."""
    place: Place = request.getfixturevalue(kind)
    scheme = place.url.partition("://")[0]
    with Bucket(f"{scheme}://{place.bucket}/", storage_options=place.options) as bucket:
        assert bucket.list("") == {}
        assert bucket.probe() == "read-write"
        bucket.create("a/object", b"x")
        assert set(bucket.list("")) == {FORMAT_OBJECT, "a/object"}
        assert list(bucket.list("a/")) == ["a/object"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("s3://", "names no bucket"),
        ("gs:///prefix", "names no bucket"),
        ("s4://bucket/prefix", "no filesystem is called 's4'"),
        ("s3:/bucket/prefix", "write s3://"),
        ("gs:bucket", "write gs://"),
        ("https://bucket.s3.amazonaws.com/prefix", "AWS_ENDPOINT_URL"),
        ("simplecache::s3://bucket/prefix", "chains filesystems"),
        ("s3://bucket/a/../b", "'..' cannot stand"),
        ("s3://bucket/a?versionId=1", "cannot stand"),
        ("s3://bucket/" + "a" * 600, "shorter"),
        ("file://", "names no folder"),
        ("file://tmp/x", "write file:///tmp/x"),
    ],
)
def test_a_url_that_cannot_work_is_said_to_be_wrong_at_once(url: str, message: str) -> None:
    """The message says what is wrong, before anything is asked or imported."""
    with pytest.raises(SettingsError) as caught:
        Bucket(url)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket", "s3://bucket"),
        (" s3://bucket/// ", "s3://bucket"),
        ("S3://bucket//a//b/", "s3://bucket/a/b"),
        ("gcs://bucket/a", "gcs://bucket/a"),
        ("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/point/a/b/", None),
        ("s3://arn:aws:s3::123456789012:accesspoint:point.mrap/a", None),
        ("file:///tmp/a/", "/tmp/a"),
        ("/tmp/a//b/", "/tmp/a/b"),
    ],
)
def test_urls_have_one_spelling(url: str, shown: str | None) -> None:
    """Slashes that mean nothing are dropped; ARNs of access points are buckets."""
    assert Bucket(url).url == (shown or url.rstrip("/"))


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its directory keeps its bucket, and `~` is the home folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    bucket = Bucket("cache/kernels")
    home = Bucket("~/kernels")
    monkeypatch.chdir("/")
    bucket.create("a", b"x")
    home.create("b", b"y")
    assert (tmp_path / "cache" / "kernels" / "a").read_bytes() == b"x"
    assert (tmp_path / "home" / "kernels" / "b").read_bytes() == b"y"


def test_a_file_is_no_bucket(tmp_path: Path) -> None:
    """A URL that names a file is an error, and the file stays."""
    (tmp_path / "file").write_bytes(b"content")
    bucket = Bucket(str(tmp_path / "file"))
    for verb in (
        bucket.probe,
        lambda: bucket.get("a", limit=LIMIT),
        lambda: bucket.create("a", b"x"),
        lambda: bucket.create("a/b", b"x"),
    ):
        with pytest.raises(RemoteError, match="Not a directory"):
            verb()
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("kind", ["zeros", "pipe", "socket", "folder", "circle"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a folder a device would give bytes without end, and a pipe would never open."""
    path = tmp_path / "object"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        # By a short name: the path of a socket has at most 107 bytes.
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("object")
    else:
        path.symlink_to("/dev/zero" if kind == "zeros" else path)
    bucket = Bucket(str(tmp_path))
    with pytest.raises(UnfitObjectError, match="object is no regular file"):
        bucket.get("object", limit=LIMIT, timeout=5)
    assert bucket.list() == {}


def test_a_link_to_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    """Whoever set up the folder may have linked files into it."""
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "object").symlink_to("file")
    bucket = Bucket(str(tmp_path))
    assert bucket.get("object", limit=5) == b"12345"
    with pytest.raises(UnfitObjectError):
        bucket.get("object", limit=4)


def test_storage_options_that_the_filesystem_does_not_take_are_named(s3_place: Place) -> None:
    """A misspelt option is a settings error that shows where it comes from, not a failure of the bucket."""
    bucket = Bucket(s3_place.url, storage_options={**s3_place.options, "max_concurrency": 0})
    for _ in range(10):
        with pytest.raises(SettingsError, match="TRITONSYNC_STORAGE_OPTIONS"):
            bucket.get("a", limit=LIMIT)


def test_a_profile_that_does_not_exist_is_named(s3_place: Place) -> None:
    """An AWS profile that is nowhere configured is the user's to correct."""
    with (
        Bucket(s3_place.url, storage_options={"profile": "nobody-has-this"}) as bucket,
        pytest.raises(SettingsError, match="nobody-has-this"),
    ):
        bucket.get("a", limit=LIMIT)


def test_options_of_the_user_win(s3_place: Place) -> None:
    """Nested client options are merged, and theirs come first; our own stay where they say nothing."""
    options = {**s3_place.options, "config_kwargs": {"read_timeout": 77, "s3": {"addressing_style": "path"}}}
    with Bucket(s3_place.url, storage_options=options, engine="s3fs") as bucket:
        assert bucket.create("a", b"x")
        config = bucket._backend().result()._filesystem.s3.meta.config
        assert (config.read_timeout, config.connect_timeout, config.s3["addressing_style"]) == (77, 3.0, "path")
        assert config.retries["total_max_attempts"] == 1


@pytest.mark.parametrize("engine", ["s3fs", "obstore"])
def test_credentials_and_endpoint_come_from_the_environment(
    engine: str, s3_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without options the ecosystem's own variables decide."""
    take_engine(engine, monkeypatch)
    for name, value in s3_place.environment.items():
        monkeypatch.setenv(name, value)
    with Bucket(s3_place.url) as bucket:
        assert bucket.probe() == "read-write"


def test_the_gcs_emulator_variable_is_honoured(gcs_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """STORAGE_EMULATOR_HOST is where every Google client looks."""
    for name, value in gcs_place.environment.items():
        monkeypatch.setenv(name, value)
    with Bucket(gcs_place.url, storage_options={"token": "anon"}) as bucket:
        assert bucket.probe() == "read-write"


def test_the_users_own_filesystem_is_not_shared(s3_place: Place) -> None:
    """Our settings do not reach an instance that the user's code gets from fsspec."""
    with Bucket(s3_place.url, storage_options=s3_place.options, engine="s3fs") as bucket:
        bucket.create("a", b"x")
        theirs = fsspec.filesystem("s3", **s3_place.options)
        assert theirs is not bucket._backend().result()._filesystem
        assert theirs.retries == 5
        assert theirs.max_concurrency == 10


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["s3fs", "obstore"])
def test_bodies_over_a_hundred_megabytes_are_create_only_too(
    engine: str, s3_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They arrive whole, in parts or not, and do not replace either."""
    take_engine(engine, monkeypatch)
    data = bytes(range(256)) * (401 * 1024)
    with Bucket(s3_place.url, storage_options=s3_place.options) as bucket:
        assert bucket.create("big", data)
        assert bucket.get("big", limit=LIMIT) == data
        assert not bucket.create("big", data[::-1])
        assert bucket.list("")["big"].size == len(data)
        assert bucket.get("big", limit=LIMIT) == data


# aiohttp's advice to gcsfs, which hands it the body as bytes.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
def test_bodies_over_fifty_megabytes_arrive_whole_on_gcs(gcs_place: Place) -> None:
    """They go in parts; the emulator, unlike GCS, does not look at the condition of those."""
    data = bytes(range(256)) * (201 * 1024)
    with Bucket(gcs_place.url, storage_options=gcs_place.options) as bucket:
        assert bucket.create("big", data)
        assert bucket.get("big", limit=LIMIT) == data


class ListOfOne(MemoryFileSystem):  # type: ignore[misc]
    """Answers as adlfs does where nothing is below a path, even if details were asked for."""

    protocol = "listofone"

    def find(self, path: str, **kwargs: Any) -> Any:
        found = super().find(path, **kwargs)
        return found if found.keys() - {path} else list(found)


def test_a_filesystem_may_answer_nothing_with_a_list() -> None:
    """It is nothing all the same, be there an object of that name or not."""
    fsspec.register_implementation(ListOfOne.protocol, ListOfOne)
    with Bucket(f"{ListOfOne.protocol}://{uuid.uuid4().hex}/prefix") as bucket:
        assert bucket.list("a/") == {}
        assert bucket.probe() == "read-write"
        assert bucket.probe(write=False) == "read-only"
        assert bucket.list("") == {FORMAT_OBJECT: bucket.list("")[FORMAT_OBJECT]}


def test_an_object_of_a_folder_has_its_data_on_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its name when `create` returns: no power cut leaves an object that is empty, which no writer could mend."""
    seen: list[str] = []
    sync, link = os.fsync, os.link

    def watched_sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append("folder" if path.is_dir() else f"data {path.stat().st_size}")
        sync(descriptor)

    def watched_link(source: Path, target: Path) -> None:
        seen.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "link", watched_link)
    with Bucket(str(tmp_path)) as bucket:
        assert bucket.create("a/object", b"content")
    assert seen == ["data 7", "name", "folder"]
