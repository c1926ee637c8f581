# ruff: noqa: T201
"""One rank of a job whose ranks do not find the same: `python ranks_apart.py <rank> <world> <folder>`.

Prints, as a JSON object, what rank by rank was computed eagerly and in each job, with the hits of each number.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
import torch.distributed as dist

from tests.plugins.programs import step
from tests.plugins.ranks import cases, job, number


def remove_what_is_of(rank: int, world: int, bucket: Path) -> int:
    """Delete what a bucket holds of one rank; return of how many variants."""
    found = [*bucket.glob(f"bundles/*/*/*-rank{rank}of{world}"), *bucket.glob(f"bundles/*/*/rank{rank}of{world}")]
    for variant in found:
        shutil.rmtree(variant)
    return len(found)


def main(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    both = {name: functions for name, functions in cases().items() if name in ("stays", "reduced", "plain")}
    compiled: dict[str, Callable[[], Any]] = {name: compute for name, (_, compute) in both.items()}
    told: dict[str, Any] = {"eager": {name: number(compute()) for name, (compute, _) in both.items()}}
    told["first"] = job(folder / "bucket", folder / f"first-{rank}", compiled)
    if rank == 1:
        told["removed"] = remove_what_is_of(1, world, folder / "bucket")
    dist.barrier()
    told["apart"] = job(folder / "bucket", folder / f"apart-{rank}", compiled)

    # The partitioner talks to the other ranks now. Rank 1 has an empty bucket in the second job.
    torch._functorch.config._sync_decision_cross_ranks = True
    train = {"step": lambda: torch.tensor(step())}
    told["step"] = sum(train["step"]().tolist())
    told["talking"] = job(folder / "talked", folder / f"talking-{rank}", train)
    bucket = folder / ("talked" if rank == 0 else "empty")
    told["talking apart"] = job(bucket, folder / f"talking-apart-{rank}", train)
    print(json.dumps(told), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
