"""A bucket that cannot be used costs a program nothing but a bounded wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faultproxy import FaultProxy, answer, hang
from tests.plugins.conftest import Done, Filled, Worker
from tests.servers import Place, Server

BUDGET_S = 3.0


@pytest.fixture
def proxy(moto_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(moto_server.endpoint) as proxy:
        yield proxy


def assert_as_without(done: Done, plain: Filled) -> None:
    assert done.out["numbers"] == plain.first.out["numbers"]
    assert done.misses == plain.first.misses
    assert done.counts["waited_s"] < BUDGET_S + 1


def test_read_only_writes_nothing(worker: Worker, plain: Filled, moto_server: Server, proxy: FaultProxy) -> None:
    """TRITONSYNC_MODE=read-only asks, and never writes."""
    place = moto_server.place(endpoint=proxy.url)
    done = worker.run("train", bucket=place, TRITONSYNC_MODE="read-only", TRITONSYNC_STRICT="1")
    assert_as_without(done, plain)
    assert proxy.count("GET") > 0
    assert proxy.count("PUT") + proxy.count("POST") == 0


def test_a_bucket_that_may_only_be_read_is_said_once(
    worker: Worker, plain: Filled, moto_server: Server, proxy: FaultProxy
) -> None:
    """A writer without the right to write says so once, and stops trying."""
    proxy.fail(answer(403), times=1000, method="PUT")
    place = moto_server.place(endpoint=proxy.url)
    done = worker.run("train", bucket=place)
    assert_as_without(done, plain)
    assert done.err.count("this run publishes nothing") == 1
    assert proxy.count("PUT") <= 2


def test_denied(worker: Worker, plain: Filled, moto_server: Server, proxy: FaultProxy) -> None:
    """A bucket that refuses everything is off after the first refusal."""
    proxy.fail(answer(403), times=1000)
    done = worker.run("train", bucket=moto_server.place(endpoint=proxy.url))
    assert_as_without(done, plain)
    assert done.err.count("the bucket is off") == 1
    assert proxy.count() <= 4


def test_hanging(worker: Worker, plain: Filled, moto_server: Server, proxy: FaultProxy) -> None:
    """A server that accepts and never answers costs the budget once, and nothing at exit."""
    proxy.fail(hang(), times=1000)
    done = worker.run(
        "train",
        bucket=moto_server.place(endpoint=proxy.url),
        TRITONSYNC_BUDGET_S=str(BUDGET_S),
        TRITONSYNC_FLUSH_S="60",
    )
    assert_as_without(done, plain)
    assert "the bucket is off" in done.err


def test_dying_in_the_middle(worker: Worker, plain: Filled, moto_server: Server) -> None:
    """A server that goes away between two compiles: the program does not notice."""
    with FaultProxy(moto_server.endpoint) as proxy:
        place = moto_server.place(endpoint=proxy.url)
        process, reports = worker.start(
            "train_twice", bucket=place, TRITONSYNC_BUDGET_S=str(BUDGET_S), TRITONSYNC_FLUSH_S="3"
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "compiled\n"
    done = worker.end(process, reports)  # closes stdin, which is what the program waits for
    assert done.code == 0, done.err
    assert done.out["numbers"][0] == plain.first.out["numbers"]
    assert len(done.compiled) == 4
    assert done.counts["waited_s"] < BUDGET_S + 1


def test_no_such_bucket(worker: Worker, plain: Filled, moto_server: Server) -> None:
    """A URL of a bucket that does not exist is said once."""
    place: Place = moto_server.at("no-such-bucket", "prefix")
    done = worker.run("train", bucket=place)
    assert_as_without(done, plain)
    assert sum("no-such-bucket" in line for line in done.err.splitlines()) == 1, done.err
