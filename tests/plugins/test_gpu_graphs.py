"""Graphs with Triton kernels, compiled for a GPU that is not there: what a second worker takes from the bucket."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.plugins.conftest import Worker
from tests.raw import RawBucket

#: Programs of gpu_graphs.py.
NAMES = ("softmax", "by_hand", "long_name", "descent", "scaled")


@pytest.fixture
def gpu_worker(worker: Worker) -> Worker:
    return dataclasses.replace(worker, program=Path(__file__).with_name("gpu_graphs.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_second_worker_compiles_and_times_nothing(gpu_worker: Worker, tmp_path: Path, name: str) -> None:
    """Graph, kernels and winners are all there, at another path: what `--assert-warm` looks at, it finds nothing of.

    Also the kernels that the value names and leaves out: it holds the winners only (pytorch 194918).
    """
    bucket, cache = tmp_path / "bucket", tmp_path / "second"
    first = gpu_worker.run(name, bucket=bucket, cache=tmp_path / "first", TRITONSYNC_STRICT="1")
    assert {event["event"] for event in first.events} == {"process", "graph", "kernel", "benchmark"}
    second = gpu_worker.run(name, bucket=bucket, cache=cache, TRITONSYNC_STRICT="1")
    assert second.hits == (1, 1)
    assert [event for event in second.events if event["event"] != "process"] == []
    assert second.counts["kernels_fetched"] >= len(first.compiled) - 1
    assert second.counts["bytes_up"] == 0
    assert second.counts["saved_s"] > 0
    if name == "softmax":
        kernels = {str(event["hash"]) for event in first.events if event["event"] == "kernel"}
        (graph,) = (str(event["name"]) for event in first.events if event["event"] == "graph")
        with RawBucket(str(bucket)) as raw:
            (loaded,) = raw.store().load("fx_graph", graph).bundles
        assert len(loaded.bundle.kernels) == len(kernels) > 1
    if name == "descent":
        # A third one on the same host asks for its record, and at its end for nothing: the winners are not its own.
        third = gpu_worker.run(name, bucket=bucket, cache=cache, TRITONSYNC_STRICT="1")
        assert third.hits == (1, 1)
        assert third.counts["requests"] <= 3


def test_a_graph_that_torch_cannot_load_again_stays_away(gpu_worker: Worker, tmp_path: Path) -> None:
    """With triton.multi_kernel a warm start of torch fails; with tritonsync the second worker compiles."""
    bucket = tmp_path / "bucket"
    first = gpu_worker.run("many", bucket=bucket, TRITONSYNC_STRICT="1")
    assert "left out of the bucket: it was made with triton.multi_kernel" in first.err
    with RawBucket(str(bucket)) as raw:
        assert raw.names("^bundles/fx_graph/") == []
    second = gpu_worker.run("many", bucket=bucket, TRITONSYNC_STRICT="1")
    assert second.out["fx_hit"] == 0
