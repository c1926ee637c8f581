"""Two ranks of a job with one bucket: each computes what it does without a compiler, in every job."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.conftest import ROOT, Worker
from tests.raw import RawBucket

PROGRAM = Path(__file__).with_name("ranks.py")
WORLD = 2
#: What each rank of its job computes for itself, and what all compute alike.
RANKED = ("dtensor", "stays", "reduced", "pass")
SHARED = ("plain", "parallel")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ranks have their caches and buckets."""
    return tmp_path_factory.mktemp("ranks")


def run_ranks(program: Path, folder: Path, worker: Worker) -> list[Mapping[str, Any]]:
    """Run a program as all ranks of a job, `python program <rank> <world> <folder>`; return what each printed."""
    environ = worker.environ(None, folder / "unused", PYTHONPATH=str(ROOT))
    ranks = [
        subprocess.Popen(
            [sys.executable, str(program), str(rank), str(WORLD), str(folder)],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        outputs = [rank.communicate(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0] * WORLD, "\n".join(err[-2000:] for _, err in outputs)
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


@pytest.fixture(scope="module")
def told(folder: Path, worker: Worker) -> list[Mapping[str, Any]]:
    """What the ranks printed."""
    return run_ranks(PROGRAM, folder, worker)


def variants(folder: Path, kind: str) -> dict[str, list[str]]:
    """Return, by key, the variants that a bucket holds; one of several ranks may be published by more than one."""
    found: dict[str, set[str]] = {}
    for name in RawBucket(str(folder)).names(rf"^bundles/{kind}/.*/manifest\.json$"):
        _, _, key, variant, *_ = name.split("/")
        found.setdefault(key, set()).add(variant)
    return {key: sorted(names) for key, names in found.items()}


@pytest.mark.parametrize("caches", ["own", "shared"])
@pytest.mark.parametrize("job", range(3))
def test_each_rank_computes_what_eager_does(told: list[Mapping[str, Any]], caches: str, job: int) -> None:
    """With DTensors, collectives, custom passes or none of them; with a cache folder for each rank, or one for all."""
    for rank in told:
        computed = {name: number for name, (number, _) in rank[caches][job].items()}
        assert computed == pytest.approx(rank["eager"], rel=1e-5)
    assert told[0]["eager"]["dtensor"] != told[1]["eager"]["dtensor"]


@pytest.mark.parametrize("job", [1, 2])
@pytest.mark.parametrize("caches", ["own", "shared"])
def test_later_jobs_are_warm_on_every_rank(told: list[Mapping[str, Any]], caches: str, job: int) -> None:
    """What belongs to one rank is found by it: in the bucket, and in a folder that others have filled too."""
    for rank in told:
        assert {name: hits for name, (_, hits) in rank[caches][job].items()} == dict.fromkeys(rank["eager"], 1)


@pytest.mark.usefixtures("told")
def test_what_belongs_to_a_rank_is_published_by_each_and_the_rest_once(folder: Path) -> None:
    """A job of 64 ranks does not publish 64 copies of what is plain."""
    found = variants(folder / "bucket", "aot_autograd")
    ranked = [names for names in found.values() if any("-rank" in name for name in names)]
    both = [names for names in ranked if len(names) == WORLD]
    assert len(both) == len(RANKED)
    assert all([name.partition("-")[2] for name in names] == ["rank0of2", "rank1of2"] for names in both)
    # `inside` has a mesh among its inputs, which torch 2.13 hashes by its address; `constant` a slice for each rank.
    assert len(ranked) - len(both) == WORLD
    assert sum(names == ["default"] for names in found.values()) == len(SHARED) + WORLD


@pytest.mark.usefixtures("told")
def test_plain_graphs_have_one_variant(folder: Path) -> None:
    """Of the FX values, those with a collective, a mesh or a custom pass have an owner."""
    found = Counter(
        re.sub(r"[0-9a-f]{16}", "any", name)
        for names in variants(folder / "bucket", "fx_graph").values()
        for name in names
    )
    assert found["any"] + found["default"] >= len(SHARED) + WORLD
    assert found["any-rank0of2"] + found["default-rank0of2"] == found["any-rank1of2"] + found["default-rank1of2"] >= 3
