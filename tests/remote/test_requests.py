"""What each verb costs, counted where it matters: in HTTP requests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faultproxy import FaultProxy, answer
from tests.servers import LIMIT, Place, Server, run_rclone, take_engine, upload_to_gcs
from tritonsync.errors import UnfitObjectError
from tritonsync.format.layout import FORMAT_OBJECT
from tritonsync.remote.bucket import Bucket


@pytest.fixture(params=["s3", "s3 obstore", "gs"])
def scheme(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    scheme, _, engine = request.param.partition(" ")
    take_engine(engine or "s3fs", monkeypatch)
    return str(scheme)


@pytest.fixture
def proxy(scheme: str, request: pytest.FixtureRequest) -> FaultProxy:
    found: FaultProxy = request.getfixturevalue("s3_proxy" if scheme == "s3" else "gcs_proxy")
    return found


@pytest.fixture
def place(scheme: str, proxy: FaultProxy, request: pytest.FixtureRequest) -> Place:
    server: Server = request.getfixturevalue("moto_server" if scheme == "s3" else "fakegcs_server")
    return server.place(endpoint=proxy.url)


@pytest.fixture
def bucket(place: Place) -> Iterator[Bucket]:
    with Bucket(place.url, storage_options=place.options) as opened:
        yield opened


def test_a_get_is_one_request_even_the_first(bucket: Bucket, proxy: FaultProxy) -> None:
    """No HEAD before it, no look-up of regions or bucket kinds, hit or miss."""
    assert bucket.get("a/missing", limit=LIMIT) is None
    assert proxy.count() == bucket.stats.requests == 1
    bucket.create("a/object", b"x" * 100_000)
    proxy.clear()
    assert bucket.get("a/object", limit=LIMIT) is not None
    assert proxy.seen() == proxy.seen()[:1]
    assert proxy.count("GET", "a/object") == 1
    bucket.create("a/empty", b"")
    proxy.clear()
    with pytest.raises(UnfitObjectError):
        bucket.get("a/object", limit=10)
    assert proxy.count() == 1, proxy.seen()
    assert bucket.get("a/empty", limit=LIMIT) == b""
    assert proxy.count() == 2, proxy.seen()


def test_a_create_is_one_request(bucket: Bucket, proxy: FaultProxy) -> None:
    """Whether or not the object exists."""
    assert bucket.create("a/object", b"x")
    assert proxy.count() == bucket.stats.requests == 1
    assert not bucket.create("a/object", b"x")
    assert proxy.count() == bucket.stats.requests == 2


def test_a_listing_miss_is_one_request_on_s3_and_two_on_gcs(bucket: Bucket, proxy: FaultProxy, scheme: str) -> None:
    """The price of a key that nobody has compiled yet."""
    assert bucket.list("bundles/fx_graph/key/") == {}
    assert proxy.count() == bucket.stats.requests == (1 if scheme == "s3" else 2), proxy.seen()


def test_a_listing_hit_is_one_request(bucket: Bucket, proxy: FaultProxy) -> None:
    """At the URL itself and below it."""
    bucket.create("a/b/object", b"x")
    before = bucket.stats.requests
    proxy.clear()
    for prefix in ("a/b/", "a/", ""):
        assert list(bucket.list(prefix)) == ["a/b/object"]
    assert proxy.count() == bucket.stats.requests - before == 3, proxy.seen()


@pytest.mark.parametrize(("kind", "engine"), [("s3", "s3fs"), ("s3", "obstore"), ("gcs", "s3fs")])
def test_a_listing_goes_on_after_a_page(
    kind: str, engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a thousand objects are listed whole, a request for each page."""
    take_engine(engine, monkeypatch)
    names = [f"p/{number:04}" for number in range(1001)]
    with contextlib.ExitStack() as stack:
        if kind == "s3":
            (tmp_path / "bucket" / "prefix" / "p").mkdir(parents=True)
            for name in names:
                (tmp_path / "bucket" / "prefix" / name).write_bytes(b"x")
            running = stack.enter_context(run_rclone(tmp_path))
        else:
            running = request.getfixturevalue("fakegcs_server")
            running.new_bucket("bucket")
        proxy = stack.enter_context(FaultProxy(running.endpoint))
        place = running.at("bucket", "prefix", endpoint=proxy.url)
        for name in names if kind == "gcs" else ():
            upload_to_gcs(place, name, b"x")
        bucket = stack.enter_context(Bucket(place.url, storage_options=place.options))
        proxy.clear()
        assert sorted(bucket.list("p/")) == names
        assert proxy.count() == bucket.stats.requests == 2, proxy.seen()


def test_get_many_is_one_request_each(bucket: Bucket, proxy: FaultProxy) -> None:
    """Missing ones too."""
    for number in range(10):
        bucket.create(f"a/{number}", b"x")
    before = bucket.stats.requests
    proxy.clear()
    bucket.get_many({f"a/{number}": LIMIT for number in range(20)})
    assert proxy.count() == bucket.stats.requests - before == 20


def test_get_many_asks_in_parallel(bucket: Bucket, proxy: FaultProxy) -> None:
    """While no answer has come, the other requests are on their way; never more than 32 of them."""
    for number in range(40):
        bucket.create(f"a/{number:02}", b"x")
    proxy.latency = 0.1
    proxy.most_at_once = 0
    bucket.get_many({f"a/{number:02}": LIMIT for number in range(40)})
    assert 16 <= proxy.most_at_once <= 32


def test_a_delete_is_one_request(bucket: Bucket, proxy: FaultProxy) -> None:
    """Also of what is not there."""
    bucket.delete("a/missing")
    assert proxy.count() == bucket.stats.requests == 1


def test_a_probe_is_two_requests(bucket: Bucket, proxy: FaultProxy) -> None:
    """One reads the format object, one tries to create it; the first time and later."""
    for number in (2, 4):
        assert bucket.probe() == "read-write"
        assert proxy.count() == proxy.count(path=FORMAT_OBJECT) + proxy.count("POST") == bucket.stats.requests == number


@pytest.mark.parametrize(
    ("server", "engine"), [("rclone_server", "s3fs"), ("rclone_server", "obstore"), ("fakegcs_server", "s3fs")]
)
def test_connections_are_kept(
    server: str, engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests one after the other share a connection, hits and misses alike."""
    take_engine(engine, monkeypatch)
    running: Server = request.getfixturevalue(server)
    with FaultProxy(running.endpoint) as proxy:
        place = running.place(endpoint=proxy.url, bucket="bucket" if running.folder else None)
        with Bucket(place.url, storage_options=place.options) as bucket:
            for number in range(5):
                bucket.create(f"a/{number}", b"x")
                bucket.get(f"a/{number}", limit=LIMIT)
                bucket.get("missing", limit=LIMIT)
                bucket.list("a/")
            assert proxy.count() == 20, proxy.seen()
            # Not one: the next request may begin before aiohttp has taken back the connection of the last.
            assert proxy.connections <= 4


def test_a_failed_request_is_counted_with_its_repetition(bucket: Bucket, proxy: FaultProxy) -> None:
    """The counter tells what was sent, not what was asked for."""
    proxy.fail(answer(503), times=2, method="GET")
    assert bucket.get("a", limit=LIMIT) is None
    assert proxy.count() == bucket.stats.requests == 3
