"""Settings of torch by which the ranks of a job talk to each other while they compile.

A rank that takes a result from a cache leaves out what torch would do to make it. Where that includes a collective, and
another rank has to compile, that one waits for the first until its time is up (pytorch 193043). By default torch runs
none. Where a setting makes it run some, no rank is given a result of the bucket, so that all of them do the same; what
they compile is not published either, or a later job would find it here. The settings are part of torch's keys.

Read in torch/_inductor (scheduler.py and comms.py; fx_passes/overlap_scheduling.py and spmd_check.py;
distributed_autotune.py), torch/_functorch/partitioners.py and torch/_dynamo/output_graph.py of 2.11, 2.13 and 2.14. Not
covered, since no setting tells: the autotuning of a custom operator that holds a collective, which gives up by itself
(`collective_benchmark_timeout`). Left to torch, too, is what its own folders hold.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from tritonsync.format.ranks import Rank

__all__ = ["collectives_of"]


def collectives_of(kind: str, rank: Rank | None) -> str | None:
    """Return a setting by which the ranks talk to each other while they make what is kept under a kind.

    Args:
        kind: `fx_graph`, `aot_autograd`, or `dynamo`, which each include what comes before them.
        rank: of this process; alone there is nobody to talk to.
    """
    if rank is not None and rank.world == 1:
        return None
    found = list(_of_inductor())
    if kind != "fx_graph" and _is_on("torch._functorch.config", "_sync_decision_cross_ranks"):
        found.append("torch._functorch.config._sync_decision_cross_ranks")
    if kind == "dynamo" and _is_on("torch._dynamo.config", "enable_compiler_collectives"):
        found.append("torch._dynamo.config.enable_compiler_collectives")
    return found[0] if found else None


def _of_inductor() -> Iterator[str]:
    module = "torch._inductor.config"
    if _is_on(module, "distributed_max_autotune_gemm"):
        yield f"{module}.distributed_max_autotune_gemm"
    name = "aten_distributed_optimizations"
    passes: Any = getattr(sys.modules.get(module), name, None)
    if getattr(passes, "spmd_check", False):
        yield f"{module}.{name}.spmd_check"
    # Estimates that are not measured are the same everywhere.
    measured = [getattr(passes, what, "benchmark") for what in ("compute_estimator", "collective_estimator")]
    if getattr(passes, "enable_overlap_scheduling", False) and measured != ["analytical", "analytical"]:
        yield f"{module}.{name}.enable_overlap_scheduling"
    aligned = (
        "runtime_estimations_align_across_all_distributed_ranks",
        "reorder_for_compute_comm_overlap_broadcast_runtime_estimations",
    )
    if _is_on(module, "reorder_for_compute_comm_overlap"):
        yield from (f"{module}_comms.{each}" for each in aligned if _is_on(f"{module}_comms", each))


def _is_on(module: str, name: str) -> bool:
    return bool(getattr(sys.modules.get(module), name, False))
