"""Whatever is wrong with the bucket, or inside tritonsync: Triton compiles, and the kernels are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faultproxy import FaultProxy, answer, drop, hang
from tests.plugins.conftest import Done
from tests.plugins.plain import PlainWorker, hits, hot, plain_worker
from tests.raw import RawBucket
from tests.servers import Server
from tritonsync.format.bundle import Bundle
from tritonsync.local import triton_cache

__all__ = ["plain_worker"]

BUDGET_S = 2.0


@pytest.fixture
def proxy(moto_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def without(plain_worker: PlainWorker) -> Done:
    """Two kernels, compiled without a bucket."""
    return plain_worker.run("compile_kernels", 2)


FAULTS = {
    "denied": answer(403),
    "overloaded": answer(503),
    "hanging": hang(),
    "dropping": drop(),
    "talking nonsense": answer(200, b"<html>", Content_Type="text/html"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bucket_that_cannot_be_used(
    plain_worker: PlainWorker, without: Done, moto_server: Server, proxy: FaultProxy, fault: str
) -> None:
    """It costs the launching thread a bounded wait, once for all kernels."""
    proxy.fail(FAULTS[fault], times=10_000)
    done = plain_worker.run(
        "compile_kernels",
        2,
        bucket=moto_server.place(endpoint=proxy.url),
        TRITONSYNC_BUDGET_S=str(BUDGET_S),
        TRITONSYNC_FLUSH_S="2",
    )
    assert hits(done) == [False] * 2
    assert hot(done) == hot(without)
    assert done.counts["waited_s"] < BUDGET_S + 1


def test_a_bucket_that_is_not_there(plain_worker: PlainWorker, without: Done, moto_server: Server) -> None:
    """It is said once."""
    done = plain_worker.run(
        "compile_kernels",
        2,
        bucket=moto_server.at("no-such-bucket", "prefix"),
        TRITONSYNC_BUDGET_S=str(BUDGET_S),
        TRITONSYNC_FLUSH_S="2",
    )
    assert hot(done) == hot(without)
    assert done.err.count("the bucket is off") == done.err.count("cannot list s3://no-such-bucket/") == 1


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "delete"])
def test_damaged_objects(plain_worker: PlainWorker, without: Done, tmp_path: Path, how: str) -> None:
    """A kernel whose pack is damaged comes from its single files; without them it is compiled, and published anew."""
    bucket = RawBucket(str(tmp_path / "bucket"))
    plain_worker.run("compile_kernels", 2, bucket=bucket.url, TRITONSYNC_WORKLOAD="first")
    for name in bucket.names(r"^bundles/.*/pack\.tar\.zst$"):
        bucket.damage(name, how)
    second = plain_worker.run("compile_kernels", 2, bucket=bucket.url, TRITONSYNC_WORKLOAD="second")
    assert hits(second) == [True] * 2
    assert hot(second) == hot(without)
    for name in bucket.names(r"\.cubin$"):
        bucket.damage(name, how)
    third = plain_worker.run("compile_kernels", 2, bucket=bucket.url, TRITONSYNC_WORKLOAD="third")
    assert hits(third) == [False] * 2
    assert hot(third) == hot(without)
    fourth = plain_worker.run("compile_kernels", 2, bucket=bucket.url, TRITONSYNC_WORKLOAD="fourth")
    assert hits(fourth) == [True] * 2
    assert hot(fourth) == hot(without)


def test_a_bundle_of_another_kernel_is_refused(plain_worker: PlainWorker, without: Done, tmp_path: Path) -> None:
    """What lies under a kernel's hash must be that kernel."""
    bucket, cache = RawBucket(str(tmp_path / "bucket")), tmp_path / "cache"
    plain_worker.run("compile_kernels", 2, cache=cache)
    one, two = (triton_cache.collect(folder, None) for folder in sorted(cache.iterdir()))
    assert one is not None
    assert two is not None
    store = bucket.store()
    store.publish(Bundle(kind="triton", key=one.hash, kernels=(two,)))
    store.publish(Bundle(kind="triton", key=two.hash, kernels=(one, two)))
    done = plain_worker.run("compile_kernels", 2, bucket=bucket.url)
    assert hits(done) == [False] * 2
    assert hot(done) == hot(without)
    assert store.load("triton", one.hash).bundles[0].bundle.kernels == (one,)


def test_a_cache_that_cannot_be_written_is_tritons_own_trouble(plain_worker: PlainWorker, tmp_path: Path) -> None:
    """What a full or forbidden disk does to Triton is what it does without tritonsync, and no more."""
    file = tmp_path / "file"
    file.touch()
    alone = plain_worker.run("compile_kernels", 1, cache=file / "cache", code=1)
    done = plain_worker.run("compile_kernels", 1, cache=file / "cache", bucket=tmp_path / "bucket", code=1)
    assert alone.err.splitlines()[-1] in done.err.splitlines()


def test_functions_that_fail_inside(plain_worker: PlainWorker, tmp_path: Path) -> None:
    """Each function of ours is made to raise, in turn; every kernel is right, and each cause is said."""
    bucket = tmp_path / "bucket"
    plain_worker.run("compile_kernels", 2, bucket=bucket)
    lenient = dataclasses.replace(plain_worker, strict=False)
    done = lenient.run("broken", tmp_path / "caches", bucket=bucket, TRITONSYNC_WORKLOAD="broken")
    assert (done.out["wrong"], done.out["unreached"]) == ([], [])
    for name in done.out["broken"]:
        assert f"{name} is broken" in done.err, done.err


def test_strict_raises(plain_worker: PlainWorker, tmp_path: Path) -> None:
    """TRITONSYNC_STRICT=1 is for those who want to see it."""
    done = plain_worker.run("broken", tmp_path / "caches", bucket=tmp_path / "b", code=1)
    assert " is broken" in done.err
