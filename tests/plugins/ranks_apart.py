# ruff: noqa: T201
"""One rank of a job whose ranks do not find the same: `python ranks_apart.py <rank> <world> <folder>`.

Prints, as a JSON object, what rank by rank was computed eagerly and in each job, with the hits of each number.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives

from tests.plugins.programs import weight
from tests.plugins.ranks import cases, job, number


def remove_what_is_of(rank: int, world: int, bucket: Path) -> int:
    """Delete what a bucket holds of one rank; return of how many variants."""
    found = [*bucket.glob(f"bundles/*/*/*-rank{rank}of{world}"), *bucket.glob(f"bundles/*/*/rank{rank}of{world}")]
    for variant in found:
        shutil.rmtree(variant)
    for copies in bucket.glob("bundles/workload/*/*/*/start.tar"):
        copies.unlink()
    return len(found)


def train(compiler: Callable[..., Any]) -> torch.Tensor:
    """One step with a collective in its graph: for such graphs the partitioner talks to the other ranks."""
    x, w = torch.arange(64.0).reshape(8, 8).requires_grad_(), weight()

    def forward(t: torch.Tensor) -> torch.Tensor:
        y = torch.mm(t, w)
        return torch.mm(y, collectives.all_reduce(y.detach(), "sum", dist.group.WORLD))

    out = compiler(forward)(x)
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    return out.detach().sum() + x.grad.sum()


def main(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    both = {name: functions for name, functions in cases().items() if name in ("stays", "reduced", "plain")}
    compiled: dict[str, Callable[[], Any]] = {name: compute for name, (_, compute) in both.items()}
    told: dict[str, Any] = {"eager": {name: number(compute()) for name, (compute, _) in both.items()}}
    told["first"] = job(folder / "bucket", folder / f"first-{rank}", compiled)
    dist.barrier()
    if rank == 1:
        told["removed"] = remove_what_is_of(1, world, folder / "bucket")
    dist.barrier()
    told["apart"] = job(folder / "bucket", folder / f"apart-{rank}", compiled)

    if os.environ.get("TALKING_RANKS") == "1":
        talk(rank, folder, told)
    print(json.dumps(told), flush=True)
    dist.destroy_process_group()


def talk(rank: int, folder: Path, told: dict[str, Any]) -> None:
    """Have the partitioner talk to the other ranks. Rank 1 has an empty bucket in the second job."""
    torch._functorch.config._sync_decision_cross_ranks = True
    trained: dict[str, Callable[[], Any]] = {"train": lambda: train(torch.compile)}
    told["train"] = number(train(lambda function: function))
    told["talking"] = job(folder / "talked", folder / f"talking-{rank}", trained)
    bucket = folder / ("talked" if rank == 0 else "empty")
    told["talking apart"] = job(bucket, folder / f"talking-apart-{rank}", trained)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(240, exit=True)  # ranks that wait for each other say where
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
