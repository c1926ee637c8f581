"""Serving programs: a second replica compiles nothing, though each calls torch in its own way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.plugins.conftest import Done, Worker
from tests.raw import RawBucket

#: Programs of serving.py, and the kinds of bundles that each leaves in the bucket.
PROGRAMS = {"vllm": {"aot_autograd"}, "saved": {"aot_autograd", "fx_graph"}, "sglang": {"fx_graph"}}
WORLD = 2


@pytest.fixture(scope="module")
def server(worker: Worker) -> Worker:
    return dataclasses.replace(worker, program=Path(__file__).with_name("serving.py"))


def kinds_in(bucket: Path) -> set[str]:
    return {name.split("/")[1] for name in RawBucket(str(bucket)).names("^bundles/(fx|aot)")}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_second_replica_compiles_nothing(server: Worker, tmp_path: Path, program: str) -> None:
    """With empty folders, of which the one that counts is chosen only inside the first call."""
    bucket = tmp_path / "bucket"
    first = server.run(program, tmp_path / "first", bucket=bucket, TRITONSYNC_STRICT="1")
    assert first.compiled
    assert kinds_in(bucket) == PROGRAMS[program]
    # By the record of the first one, all is fetched before that folder is chosen.
    folder = tmp_path / "second"
    second = server.run(program, folder, bucket=bucket, TRITONSYNC_STRICT="1")
    assert second.compiled == []
    assert second.counts["misses"] == 0
    assert second.out["numbers"] == first.out["numbers"]
    if program == "vllm":
        # What it saved as a whole is sound, though its pieces came from the bucket.
        again = server.run(program, folder)
        assert (again.out["traced"], again.compiled) == (0, [])
        assert again.out["numbers"] == first.out["numbers"]


@pytest.mark.parametrize("program", ["vllm", "sglang"])
def test_the_ranks_of_a_second_job_compile_nothing(server: Worker, tmp_path: Path, program: str) -> None:
    """Each rank of a tensor-parallel job makes the same calls, at the same time, with a folder that all share."""

    def job(number: int) -> list[Done]:
        ranks = [
            server.start(
                program,
                tmp_path / f"job-{number}",
                bucket=tmp_path / "bucket",
                # No record: each graph is fetched when it is asked for.
                TRITONSYNC_WORKLOAD=f"job-{number}",
                RANK=str(rank),
                WORLD_SIZE=str(WORLD),
                RENDEZVOUS=str(tmp_path / f"rendezvous-{number}"),
            )
            for rank in range(WORLD)
        ]
        done = [server.end(*rank) for rank in ranks]
        assert [rank.code for rank in done] == [0] * WORLD, "\n".join(rank.err for rank in done)
        return done

    first, second = job(1), job(2)
    assert any(rank.compiled for rank in first)
    assert [rank.compiled for rank in second] == [[]] * WORLD
    assert [rank.out["numbers"] for rank in second] == [rank.out["numbers"] for rank in first]
