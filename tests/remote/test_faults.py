"""Servers, networks and processes that misbehave: every verb ends in time, with an error that says what to do."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faultproxy import Exchange, Fault, FaultProxy, answer, drop, hang, trickle
from tests.servers import LIMIT, Place, Server, take_engine
from tritonsync.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    RemoteError,
    RemoteOffError,
    RemoteTimeoutError,
)
from tritonsync.format.layout import FORMAT_CONTENT, FORMAT_OBJECT
from tritonsync.remote.bucket import Bucket
from tritonsync.remote.waiting import RetryPolicy

#: Quick enough for tests; the same rules.
QUICK = RetryPolicy(pause=0.01, max_pause=0.05, deadline=20.0, connect_timeout=1.0, read_timeout=1.0)


@pytest.fixture(params=["s3", "s3 obstore", "gs"])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    scheme, _, engine = request.param.partition(" ")
    take_engine(engine or "s3fs", monkeypatch)
    found: FaultProxy = request.getfixturevalue("s3_proxy" if scheme == "s3" else "gcs_proxy")
    return found


@pytest.fixture
def place(proxy: FaultProxy, request: pytest.FixtureRequest) -> Place:
    scheme = request.node.callspec.params["proxy"]
    server: Server = request.getfixturevalue("fakegcs_server" if scheme == "gs" else "moto_server")
    return server.place(endpoint=proxy.url)


@pytest.fixture
def bucket(place: Place) -> Iterator[Bucket]:
    with Bucket(place.url, storage_options=place.options, patience=QUICK) as opened:
        yield opened


@pytest.fixture(params=["s3fs", "obstore"])
def s3(
    s3_proxy: FaultProxy, moto_server: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    take_engine(request.param, monkeypatch)
    place = moto_server.place(endpoint=s3_proxy.url)
    with Bucket(place.url, storage_options=place.options, patience=QUICK) as opened:
        yield opened


def s3_error(status: int, code: str, message: str = "injected") -> Fault:
    """Answer as AWS does."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return answer(status, body.encode(), Content_Type="application/xml")


#: Each scheme with each of its engines.
ENGINES = (("s3", "s3fs"), ("s3", "obstore"), ("gs", "s3fs"))
#: Each verb, and the HTTP methods it uses.
VERBS: Mapping[str, Callable[[Bucket], Any]] = {
    "get": lambda bucket: bucket.get("a/object", limit=LIMIT),
    "create": lambda bucket: bucket.create("a/object", b"x"),
    "list": lambda bucket: bucket.list("a/"),
    "delete": lambda bucket: bucket.delete("a/object"),
}
PROBES: tuple[Callable[[Bucket], Any], ...] = (Bucket.probe, lambda bucket: bucket.probe(write=False))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("fault", [answer(500), answer(503), answer(429), drop()], ids=["500", "503", "429", "drop"])
def test_what_passes_is_repeated(verb: str, fault: Fault, bucket: Bucket, proxy: FaultProxy) -> None:
    """After errors of the moment the verb succeeds, and nobody hears of them."""
    bucket.list("")
    proxy.fail(fault, times=2)
    VERBS[verb](bucket)
    assert bucket.get("a/object", limit=LIMIT) == (b"x" if verb == "create" else None)


def test_an_answer_that_breaks_off_is_asked_for_again(bucket: Bucket, proxy: FaultProxy) -> None:
    """Half a body is never taken for an object."""
    data = os.urandom(300_000)
    bucket.create("a/object", data)
    proxy.fail(drop(after=100_000), times=2, method="GET")
    assert bucket.get("a/object", limit=LIMIT) == data


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html>"),
        ("application/json", b'{"items": ['),
        ("application/json", b'{"items": [{"name": "a/\xe7"}]}'),
        ("application/json", b'{"items": [{"mame": "a/object"}]}'),
    ],
)
def test_an_answer_that_is_no_listing_is_asked_for_again(
    bucket: Bucket, proxy: FaultProxy, kind: str, body: bytes
) -> None:
    """A gateway's page, or a body that was damaged on its way."""
    bucket.create("a/object", b"x")
    proxy.fail(answer(200, body, Content_Type=kind), times=1, method="GET")
    assert list(bucket.list("a/")) == ["a/object"]


def test_what_does_not_pass_is_raised_after_all_attempts(bucket: Bucket, proxy: FaultProxy) -> None:
    """The error names the object and what the server said."""
    bucket.list("")
    proxy.clear()
    proxy.fail(answer(503), times=100)
    with pytest.raises(RemoteError, match=r"cannot read .*a/object: HTTP 503 .* after 4 attempts in \d\.\d s"):
        bucket.get("a/object", limit=LIMIT)
    assert proxy.count() == QUICK.attempts == 4


def test_the_servers_answer_is_told_rather_than_its_later_silence(place: Place, proxy: FaultProxy) -> None:
    """What was said first is what somebody can act on."""
    patience = RetryPolicy(pause=0.01, max_pause=0.05, upload_attempt=0.5, deadline=30.0)
    with Bucket(place.url, storage_options=place.options, patience=patience) as bucket:
        bucket.list("")
        proxy.fail(answer(500, b"the disk is full"), times=2)
        proxy.fail(hang(), times=100)
        with pytest.raises(RemoteError, match=r"cannot create .*a: HTTP 500 .* after 4 attempts") as caught:
            bucket.create("a", b"x")
        assert not isinstance(caught.value, RemoteTimeoutError)


def test_silence_is_told_as_what_it_was(place: Place, proxy: FaultProxy) -> None:
    """The time of the attempts, not the limit that was never reached."""
    patience = RetryPolicy(pause=0.01, max_pause=0.05, upload_attempt=0.3, deadline=300.0)
    with Bucket(place.url, storage_options=place.options, patience=patience) as bucket:
        bucket.list("")
        proxy.fail(hang(), times=100)
        with pytest.raises(RemoteTimeoutError, match=r"no whole answer in .* s .*after 4 attempts in") as caught:
            bucket.create("a", b"x")
        assert "300" not in str(caught.value)


def test_each_repetition_is_logged_with_the_servers_answer(
    bucket: Bucket, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever watches sees why it takes long."""
    caplog.set_level("INFO", logger="tritonsync.remote")
    bucket.list("")
    proxy.fail(answer(503, b"please wait"), times=2)
    assert bucket.get("a/object", limit=LIMIT) is None
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("tritonsync")]
    assert len(lines) == 2
    for line in lines:
        assert "a/object: HTTP 503" in line
        assert "trying again in" in line


def test_the_breaker_leaves_a_failing_bucket_alone(place: Place, proxy: FaultProxy) -> None:
    """After five failed calls nothing is sent; when the pause is over one call tries, and all is well again."""
    patience = RetryPolicy(attempts=1, breaker_failures=5, breaker_pause=0.5)
    with Bucket(place.url, storage_options=place.options, patience=patience) as bucket:
        proxy.fail(answer(500), times=100, method="GET")
        for _ in range(5):
            with pytest.raises(RemoteError, match="500"):
                bucket.get("a", limit=LIMIT)
        proxy.clear()
        for verb in VERBS.values():
            with pytest.raises(RemoteOffError, match="5 calls in a row failed"):
                verb(bucket)
        assert proxy.count() == 0
        proxy.heal()
        time.sleep(0.6)
        assert bucket.get("a", limit=LIMIT) is None
        assert bucket.create("a", b"x")


def test_refusals_and_misses_do_not_open_the_breaker(bucket: Bucket, proxy: FaultProxy) -> None:
    """A server that says no works."""
    proxy.fail(answer(403), times=10)
    for _ in range(10):
        with pytest.raises(AccessDeniedError):
            bucket.get("a", limit=LIMIT)
    for _ in range(10):
        assert bucket.get("a", limit=LIMIT) is None


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_raised_at_once(verb: str, status: int, bucket: Bucket, proxy: FaultProxy) -> None:
    """It is never repeated, and it is a PermissionError that names the URL."""
    bucket.list("")
    proxy.clear()
    proxy.fail(answer(status), times=100)
    # GCS says 401 of a token that has expired, and such a one is read anew once.
    is_expired = status == 401 and bucket.url.startswith("gs://")
    with pytest.raises(AccessDeniedError, match=r"://bucket-.*(This identity needs|have expired)") as caught:
        VERBS[verb](bucket)
    assert isinstance(caught.value, PermissionError)
    assert ("have expired" in str(caught.value)) == is_expired
    assert proxy.count() == 1 + is_expired


def test_a_refused_read_on_s3_hints_at_the_right_to_list(s3: Bucket, s3_proxy: FaultProxy) -> None:
    """Without s3:ListBucket every miss is a 403, which is hard to guess."""
    s3_proxy.fail(s3_error(403, "AccessDenied"), times=2)
    for verb in ("get", "list"):
        with pytest.raises(AccessDeniedError, match="s3:ListBucket"):
            VERBS[verb](s3)
    s3_proxy.fail(s3_error(403, "AccessDenied"))
    with pytest.raises(AccessDeniedError, match="s3:PutObject"):
        s3.create("a", b"x")


def test_an_invalid_token_is_a_refusal(s3: Bucket, s3_proxy: FaultProxy) -> None:
    """S3 says so with a 400."""
    s3_proxy.fail(s3_error(400, "InvalidToken"))
    with pytest.raises(AccessDeniedError, match=r"access denied.*injected"):
        s3.get("a", limit=LIMIT)


@pytest.mark.parametrize("code", ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"])
def test_an_expired_token_is_no_missing_right(code: str, s3: Bucket, s3_proxy: FaultProxy) -> None:
    """Credentials are read anew once; if those have expired too, the message says that, and nothing of rights."""
    s3.create("a", b"x")
    s3_proxy.fail(s3_error(400, code))
    assert s3.get("a", limit=LIMIT) == b"x"
    s3_proxy.fail(s3_error(400, code), times=100)
    s3_proxy.clear()
    with pytest.raises(AccessDeniedError, match=r"have expired.*injected") as caught:
        s3.get("a", limit=LIMIT)
    assert "needs s3:GetObject" not in str(caught.value)
    assert s3_proxy.count() == 2


def test_credentials_that_were_renewed_are_read(
    s3_proxy: FaultProxy, moto_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that runs for longer than its token is valid goes on with the next one, from the same file."""
    place, credentials = moto_server.place(endpoint=s3_proxy.url), tmp_path / "credentials"
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    text = "[default]\naws_access_key_id = {}\naws_secret_access_key = secret\n"
    credentials.write_text(text.format("FIRST"))
    with Bucket(place.url, storage_options={"endpoint_url": s3_proxy.url}, patience=QUICK) as bucket:
        assert bucket.get("a", limit=LIMIT) is None
        credentials.write_text(text.format("SECOND"))
        s3_proxy.fail(s3_error(400, "ExpiredToken"))
        assert bucket.get("a", limit=LIMIT) is None
    keys = [request.headers["authorization"].partition("Credential=")[2][:5] for request in s3_proxy.requests]
    assert keys == ["FIRST", "FIRST", "SECON"]


@pytest.mark.parametrize("engine", ["s3fs", "obstore"])
def test_a_missing_bucket_is_told_from_a_missing_object(
    engine: str, moto_server: Server, fakegcs_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every verb of S3 says so; on GCS those do whose answer tells."""
    take_engine(engine, monkeypatch)
    with Bucket("s3://no-such-bucket/p", storage_options=moto_server.at("no-such-bucket", "p").options) as bucket:
        for verb in (*VERBS.values(), *PROBES):
            with pytest.raises(BucketNotFoundError, match="no bucket 'no-such-bucket'"):
                verb(bucket)
        assert bucket.stats.requests == len(VERBS) + 3  # a probe that writes nothing makes two at the same time
    take_engine("s3fs", monkeypatch)
    with Bucket("gs://no-such-bucket/p", storage_options=fakegcs_server.at("no-such-bucket", "p").options) as bucket:
        assert bucket.get("a", limit=LIMIT) is None
        for verb in (VERBS["create"], VERBS["list"], *PROBES):
            with pytest.raises(BucketNotFoundError, match="no bucket 'no-such-bucket'"):
                verb(bucket)


def test_a_conflict_of_two_creations_is_repeated(s3: Bucket, s3_proxy: FaultProxy) -> None:
    """AWS answers 409 when another conditional write is under way; the repetition knows how it ended."""
    s3_proxy.fail(s3_error(409, "ConditionalRequestConflict"), times=2, method="PUT")
    assert s3.create("a", b"x")
    s3_proxy.fail(s3_error(409, "ConditionalRequestConflict"), times=2, method="PUT")
    assert not s3.create("a", b"y")
    assert s3.get("a", limit=LIMIT) == b"x"


@pytest.mark.parametrize("fault", [answer(412), s3_error(412, "PreconditionFailed")], ids=["bare", "without-condition"])
def test_a_bare_precondition_failed_means_it_exists(fault: Fault, s3: Bucket, s3_proxy: FaultProxy) -> None:
    """Some servers do not say which condition failed."""
    s3_proxy.fail(fault, method="PUT")
    assert not s3.create("a", b"x")
    assert s3_proxy.count("PUT") == 1


def test_a_server_without_conditional_writes_is_written_without(s3: Bucket, s3_proxy: FaultProxy) -> None:
    """One that refuses the header is asked without it, now and from then on."""
    s3_proxy.fail(s3_error(501, "NotImplemented"), times=100, method="PUT", header="If-None-Match")
    assert s3.create("a", b"x")
    assert s3.create("b", b"y")
    assert s3_proxy.count("PUT") == s3.stats.requests == 3
    assert s3.get_many({"a": LIMIT, "b": LIMIT}) == {"a": b"x", "b": b"y"}


def test_a_lost_answer_to_a_creation_is_no_error(bucket: Bucket, proxy: FaultProxy) -> None:
    """The repetition finds the object of the first attempt."""
    bucket.list("")
    proxy.fail(drop())
    assert not bucket.create("a/object", b"x")
    assert bucket.get("a/object", limit=LIMIT) == b"x"


def test_get_many_returns_errors_beside_objects(bucket: Bucket, proxy: FaultProxy) -> None:
    """One refused object does not hide the others."""
    for name in ("a/1", "a/2", "a/3"):
        bucket.create(name, name.encode())
    proxy.fail(answer(403), times=100, path="a/2")
    found = bucket.get_many(dict.fromkeys(["a/1", "a/2", "a/3", "a/4"], LIMIT))
    assert isinstance(found.pop("a/2"), AccessDeniedError)
    assert found == {"a/1": b"a/1", "a/3": b"a/3", "a/4": None}


@pytest.mark.parametrize("verb", VERBS)
def test_a_silent_server_ends_at_the_deadline(verb: str, place: Place, proxy: FaultProxy) -> None:
    """A connection that is accepted and never answered costs what the caller allowed."""
    actions: Mapping[str, Callable[[Bucket], Any]] = {
        "get": lambda bucket: bucket.get("a/object", limit=LIMIT, timeout=0.5),
        "create": lambda bucket: bucket.create("a/object", b"x", timeout=0.5),
        "list": lambda bucket: bucket.list("a/", timeout=0.5),
        "delete": lambda bucket: bucket.delete("a/object", timeout=0.5),
    }
    with Bucket(place.url, storage_options=place.options) as bucket:
        bucket.list("")
        proxy.fail(hang(), times=100)
        began = time.monotonic()
        with pytest.raises(RemoteTimeoutError, match=r"no whole answer in \d\.\d s"):
            actions[verb](bucket)
        # Ten seconds is what a client would wait by itself.
        assert time.monotonic() - began < 5
        proxy.heal()
        assert bucket.get("other", limit=LIMIT) is None


def test_silence_is_cut_and_asked_again_within_the_deadline(place: Place, proxy: FaultProxy) -> None:
    """The read time-out ends one silent connection, and the next one answers."""
    patience = RetryPolicy(read_timeout=0.5, pause=0.01, deadline=30)
    with Bucket(place.url, storage_options=place.options, patience=patience) as bucket:
        bucket.list("")
        proxy.fail(hang(), method="GET")
        assert bucket.get("a", limit=LIMIT) is None


def test_a_trickling_server_ends_at_the_deadline(place: Place, proxy: FaultProxy) -> None:
    """Bytes that keep coming one by one do not keep a caller waiting."""
    with Bucket(place.url, storage_options=place.options) as bucket:
        bucket.create("a", b"x" * 10_000)
        proxy.fail(trickle(0.05), times=100, method="GET")
        began = time.monotonic()
        with pytest.raises(RemoteTimeoutError):
            bucket.get("a", limit=LIMIT, timeout=0.7)
        assert time.monotonic() - began < 5


def test_a_trickling_answer_is_asked_for_again(place: Place, proxy: FaultProxy) -> None:
    """One attempt does not use up the whole time: the next answer is whole."""
    patience = RetryPolicy(read_attempt=0.5, pause=0.01, deadline=6)
    with Bucket(place.url, storage_options=place.options, patience=patience) as bucket:
        bucket.create("a", b"x" * 10_000)
        proxy.fail(trickle(0.05), method="GET")
        assert bucket.get("a", limit=LIMIT) == b"x" * 10_000
        proxy.fail(trickle(0.05), method="GET")
        assert list(bucket.list("")) == ["a"]


def test_get_many_ends_at_the_deadline(place: Place, proxy: FaultProxy) -> None:
    """A hundred silent objects take no longer than one; those that were not begun say so."""
    with Bucket(place.url, storage_options=place.options) as bucket:
        bucket.list("")
        proxy.fail(hang(), times=100)
        began = time.monotonic()
        found = bucket.get_many({f"a/{number}": LIMIT for number in range(100)}, timeout=0.7)
        assert time.monotonic() - began < 5
        assert {type(outcome) for outcome in found.values()} <= {RemoteTimeoutError, RemoteOffError}
        assert len(found) == 100


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(("scheme", "engine"), ENGINES)
def test_a_refused_connection_is_an_error_within_the_deadline(
    scheme: str, engine: str, moto_server: Server, fakegcs_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listening is known at once; it is tried again, and the error says what happened, not "too late"."""
    take_engine(engine, monkeypatch)
    server = moto_server if scheme == "s3" else fakegcs_server
    place = server.at("bucket", "p", endpoint=f"http://127.0.0.1:{unused_port()}")
    with Bucket(place.url, storage_options=place.options, patience=QUICK) as bucket:
        with pytest.raises(RemoteError, match=r"(?i)connect") as caught:
            bucket.get("a", limit=LIMIT)
        assert not isinstance(caught.value, RemoteTimeoutError)
        assert bucket.stats.requests == QUICK.attempts


@pytest.mark.parametrize(("scheme", "engine"), ENGINES)
def test_a_host_that_does_not_exist_is_an_error(
    scheme: str, engine: str, moto_server: Server, fakegcs_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.invalid` never resolves (RFC 2606)."""
    take_engine(engine, monkeypatch)
    server = moto_server if scheme == "s3" else fakegcs_server
    place = server.at("bucket", "p", endpoint="http://host.invalid")
    with (
        Bucket(place.url, storage_options=place.options, patience=QUICK) as bucket,
        pytest.raises(RemoteError, match=r"host\.invalid"),
    ):
        bucket.get("a", limit=LIMIT)


class TestProbe:
    """What an identity may do, told from the answers."""

    def test_a_refused_write_is_read_only(self, bucket: Bucket, proxy: FaultProxy, place: Place) -> None:
        """With and without a format object."""
        writing = "PUT" if place.url.startswith("s3") else "POST"
        proxy.fail(answer(403), times=2, method=writing)
        assert bucket.probe() == "read-only"
        with Bucket(place.url, storage_options=place.options) as writer:
            proxy.heal()
            assert writer.probe() == "read-write"
        proxy.fail(answer(403), times=2, method=writing)
        assert bucket.probe() == "read-only"

    def test_a_refused_read_is_an_error(self, bucket: Bucket, proxy: FaultProxy) -> None:
        """A bucket that can only be written is of no use."""
        assert bucket.probe() == "read-write"
        proxy.fail(answer(403), times=100, method="GET")
        for write in (True, False):
            with pytest.raises(AccessDeniedError, match="cannot read"):
                bucket.probe(write=write)

    def test_refused_everything_is_an_error(self, bucket: Bucket, proxy: FaultProxy) -> None:
        """The error is about reading, which is what everybody needs."""
        proxy.fail(answer(403), times=100)
        with pytest.raises(AccessDeniedError, match="cannot read"):
            bucket.probe()

    def test_a_writer_without_the_right_to_list_may_begin_a_bucket(self, s3: Bucket, s3_proxy: FaultProxy) -> None:
        """S3 answers 403 for a format object that is not there yet; once written, it can be read."""
        s3_proxy.fail(s3_error(403, "AccessDenied"), times=1, method="GET")
        assert s3.probe() == "read-write"
        assert s3.get(FORMAT_OBJECT, limit=LIMIT) == FORMAT_CONTENT


def slow_line(pause: float) -> Fault:
    """Take the body a bit at a time, then say that it was written."""

    async def fault(exchange: Exchange) -> bool:
        left = int(exchange.request.headers["content-length"])
        while left:
            left -= len(await exchange.reader.read(min(left, 1 << 18)))
            await asyncio.sleep(pause)
        exchange.client.write(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n\r\n')
        return True

    return fault


def test_an_upload_over_a_slow_line_is_not_silence(
    s3_proxy: FaultProxy, moto_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore counts the time that a body takes as silence, so its uploads have no read time-out but our deadline."""
    take_engine("obstore", monkeypatch)
    place = moto_server.place(endpoint=s3_proxy.url)
    s3_proxy.fail(slow_line(0.03), method="PUT")
    with Bucket(place.url, storage_options=place.options, patience=QUICK) as bucket:
        began = time.monotonic()
        assert bucket.create("a", b"x" * 20_000_000)
        assert time.monotonic() - began > QUICK.read_timeout
    assert s3_proxy.count("PUT") == 1


def test_an_upload_that_hangs_is_tried_again(proxy: FaultProxy, place: Place) -> None:
    """One attempt does not use up the time of all, even if the client's own read timeout notices nothing."""
    patience = RetryPolicy(pause=0.01, deadline=30.0, read_timeout=300.0, upload_attempt=1.0)
    method = "POST" if place.url.startswith("gs://") else "PUT"
    with Bucket(place.url, storage_options=place.options, patience=patience) as bucket:
        proxy.fail(hang(), method=method)
        bucket.create("a", b"x")
        assert bucket.get("a", limit=LIMIT) == b"x"
    assert proxy.count(method) == 2
