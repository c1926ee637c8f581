# ruff: noqa: T201
"""One rank of a job: `python ranks.py <rank> <world> <folder>`; prints what three jobs computed, as a JSON object.

Each job begins with a session of its own, as a new process would. Only matrix products, as in programs.py.
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
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

import tritonsync
from tests.plugins.programs import counters, model, weight
from tritonsync.session import session


class RowsOfThisRank(CustomGraphPass):  # type: ignore[misc]
    """Let a graph take other rows on each rank; what torch hashes of it is the same on all."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten.slice.Tensor):
            node.args = (node.args[0], 0, 2 * dist.get_rank(), 2 * dist.get_rank() + 2)

    def uuid(self) -> bytes:
        return b"rows"


def taken_by_a_pass(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(x[0:2], w)


def cases(device: str = "cpu") -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return, by name, what computes a result eagerly, and what computes it compiled."""
    rank = dist.get_rank()
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    x, w = torch.arange(64.0).reshape(8, 8).to(device), weight().to(device)
    whole = DTensor.from_local(x, mesh, [Replicate()], run_check=False)
    wide = DTensor.from_local(w, mesh, [Replicate()], run_check=False)

    def into_local(d: Any) -> Any:
        return torch.mm(d.redistribute(placements=[Shard(0)]).to_local(), w)

    def inside(t: torch.Tensor) -> Any:
        return into_local(DTensor.from_local(t, mesh, [Replicate()], run_check=False))

    def stays(d: Any) -> Any:
        return torch.mm(d.redistribute(placements=[Shard(0)]), wide)

    def reduced(t: torch.Tensor) -> Any:
        return torch.mm(collectives.all_reduce(torch.mm(t, w), "sum", mesh), w)

    def constant(t: torch.Tensor) -> torch.Tensor:
        return torch.mm(t[dist.get_rank() :], w)

    def parallel(function: Any) -> torch.Tensor:
        layer = torch.nn.Linear(8, 8, bias=False, device=device)
        torch.nn.init.ones_(layer.weight)
        wrapped = torch.nn.parallel.DistributedDataParallel(function(layer))
        wrapped(x + rank).sum().backward()
        assert layer.weight.grad is not None
        return layer.weight.grad

    def passed() -> Any:
        from torch._inductor import config

        with config.patch(post_grad_custom_pre_pass=RowsOfThisRank()):
            return torch.compile(taken_by_a_pass)(x, w)

    def both(function: Any, argument: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return lambda: function(argument), lambda: torch.compile(function)(argument)

    return {
        "dtensor": both(into_local, whole),
        "inside": both(inside, x),
        "stays": both(stays, whole),
        "reduced": both(reduced, x),
        "constant": both(constant, x),
        "plain": (lambda: model(x, w), lambda: torch.compile(model)(x, w)),
        "parallel": (lambda: parallel(lambda layer: layer), lambda: parallel(torch.compile)),
        "pass": (lambda: torch.mm(x[2 * rank : 2 * rank + 2], w), passed),
    }


def number(result: Any) -> float:
    return float((result.to_local() if isinstance(result, DTensor) else result).detach().sum())


def compute_all(compiled: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Compute each number as a new program does; beside each, its hits in the AOTAutograd cache."""
    told = {}
    for name, compute in compiled.items():
        torch.compiler.reset()
        before = counters()["aot_hit"]
        told[name] = [number(compute()), counters()["aot_hit"] - before]
    return told


def job(bucket: Path, cache: Path, compiled: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Compute all numbers as a process of a new job does."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    tritonsync.install(tritonsync.Settings(url=str(bucket), strict=True, quiet=True))
    told = compute_all(compiled)
    session.stop()
    dist.barrier()
    return told


def main(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    both = cases()
    compiled = {name: compute for name, (_, compute) in both.items()}
    told: dict[str, Any] = {"eager": {name: number(compute()) for name, (compute, _) in both.items()}}
    # A folder of its own for each rank and job.
    told["own"] = [job(folder / "bucket", folder / f"own-{rank}-{count}", compiled) for count in range(3)]
    # One for all: new for the first job, as it was for the second one, and empty again for the third.
    shared = folder / "shared"
    told["shared"] = [job(folder / "other", shared, compiled) for _ in range(2)]
    if rank == 0:
        shutil.rmtree(shared)
    dist.barrier()
    told["shared"].append(job(folder / "other", shared, compiled))
    print(json.dumps(told), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(240, exit=True)  # ranks that wait for each other say where
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
