# ruff: noqa: T201, N803
"""Triton's own autotuner and its cache on disk, for a GPU that is not there: `python autotune_plain.py`.

Nothing is launched, and how long a configuration takes is given. Prints which one was chosen, and how many were timed.
"""
# mypy: ignore-errors

from __future__ import annotations

import json
import types

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

timed = []


def bench(_call, quantiles=None):
    timed.append(1)
    return [float(len(timed))] * 3


driver.set_active(types.SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32)))


@triton.autotune(
    [triton.Config({"BLOCK": block}) for block in (64, 128)], key=["count"], do_bench=bench, cache_results=True
)
@triton.jit
def double(pointer, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(pointer + at, tl.load(pointer + at, at < count) * 2, at < count)


double.fn.run = lambda *_args, **_kwargs: None
double[(1,)](types.SimpleNamespace(dtype="fp32"), 1000)
print(json.dumps({"timed": len(timed), "block": double.best_config.kwargs["BLOCK"]}))
