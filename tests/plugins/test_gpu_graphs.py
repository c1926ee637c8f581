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
    """Graph, kernels and winners are all there, at another path: what `--assert-warm` looks at, it finds nothing of."""
    bucket = tmp_path / "bucket"
    first = gpu_worker.run(name, bucket=bucket, cache=tmp_path / "first", TRITONSYNC_STRICT="1")
    assert {event["event"] for event in first.events} == {"process", "graph", "kernel", "benchmark"}
    second = gpu_worker.run(name, bucket=bucket, cache=tmp_path / "second", TRITONSYNC_STRICT="1")
    assert second.hits == (1, 1)
    assert [event for event in second.events if event["event"] != "process"] == []
    assert second.counts["kernels_fetched"] >= len(first.compiled) - 1
    assert second.counts["bytes_up"] == 0


def test_results_of_another_process_are_not_published_again(gpu_worker: Worker, tmp_path: Path) -> None:
    """A process that finds graphs and winners on its host asks for its record, and at its end for nothing."""
    bucket, cache = tmp_path / "bucket", tmp_path / "second"
    gpu_worker.run("descent", bucket=bucket, cache=tmp_path / "first", TRITONSYNC_STRICT="1")
    gpu_worker.run("descent", bucket=bucket, cache=cache, TRITONSYNC_STRICT="1")
    third = gpu_worker.run("descent", bucket=bucket, cache=cache, TRITONSYNC_STRICT="1")
    assert third.hits == (1, 1)
    assert third.counts["requests"] <= 3


def test_kernels_that_the_value_leaves_out_come_along(gpu_worker: Worker, tmp_path: Path) -> None:
    """A value holds the winners only, and names all; each kernel it names is in its bundle (pytorch 194918)."""
    bucket = tmp_path / "bucket"
    first = gpu_worker.run("softmax", bucket=bucket, cache=tmp_path / "first", TRITONSYNC_STRICT="1")
    kernels = {str(event["hash"]) for event in first.events if event["event"] == "kernel"}
    (graph,) = (str(event["name"]) for event in first.events if event["event"] == "graph")
    with RawBucket(str(bucket)) as raw:
        (loaded,) = raw.store().load("fx_graph", graph).bundles
    assert len(loaded.bundle.kernels) == len(kernels) > 1
