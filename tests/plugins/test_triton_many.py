"""Many workers that start cold at the same moment."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.faultproxy import FaultProxy
from tests.plugins.plain import PROGRAM, PlainWorker, hits, hot, plain_worker
from tests.raw import RawBucket
from tests.servers import Server
from tritonsync.format import pack
from tritonsync.format.layout import parse_manifest_name
from tritonsync.format.manifest import decode

__all__ = ["plain_worker"]

log = logging.getLogger(__name__)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "processes", "kernels"), [("moto", 8, 6), ("rclone", 4, 4)], ids=["moto", "rclone"])
def test_workers_that_compile_the_same_kernels_at_once(
    plain_worker: PlainWorker,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    processes: int,
    kernels: int,
) -> None:
    """Each has its own empty cache; every kernel is right, and the bucket has each of them once.

    The second server ignores the condition of create-only writes: objects are overwritten there, by their equals.
    """
    server: Server = request.getfixturevalue(f"{kind}_server")
    worker = PlainWorker(tmp_path, plain_worker.site, PROGRAM)
    expected = hot(worker.run("compile_kernels", kernels))
    with FaultProxy(server.endpoint) as proxy:
        place = server.place(endpoint=proxy.url, bucket="bucket" if kind == "rclone" else None)
        started = [worker.start("compile_when_told", kernels, bucket=place) for _ in range(processes)]
        for process, _ in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process, _ in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        done = [worker.end(process, reports) for process, reports in started]
        puts = proxy.count("PUT")
    assert [one.code for one in done] == [0] * processes, [one.err for one in done]
    assert all(hot(one) == expected for one in done)
    assert sum(one.counts["dropped"] for one in done) == 0

    place = server.at(place.bucket, place.url.partition("://")[2].partition("/")[2])  # the proxy is gone
    with RawBucket(place.url, place.options) as bucket:
        objects = bucket.names()
        contents = []
        for name in bucket.names(r"^bundles/triton/.*/manifest\.json$"):
            place_of_it = parse_manifest_name(name)
            assert place_of_it is not None
            bundle = pack.decode(bucket.read(place_of_it.pack), decode(bucket.read(name), name))
            contents += [(kernel.hash, kernel.content_id) for kernel in bundle.kernels]
        assert len(contents) == len(set(contents)) == kernels
        assert len({kernel_hash for kernel_hash, _ in contents}) == kernels
        assert len(bucket.names(r"^kernels/.*/.*\.cubin$")) == kernels
    accepted = int(sum(one.counts["objects_created"] for one in done))
    log.info("%s: %d PUTs accepted, %d refused; %d objects", kind, accepted, puts - accepted, len(objects))
    # moto looks and writes in two steps, so of two at the same moment it now and then accepts both.
    assert len(objects) <= accepted <= puts
    late = worker.run("compile_kernels", kernels, bucket=place)
    assert hits(late) == [True] * kernels
    assert hot(late) == expected
