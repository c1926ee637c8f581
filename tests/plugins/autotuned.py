# ruff: noqa: T201
"""A kernel of Inductor whose autotuning a first worker has saved, case by case: `python autotuned.py save|load`.

All of it is torch's and Triton's own code, but for what needs a GPU: the target is named, nothing is launched, and the
number of registers that a driver would tell is given. `save` compiles the kernel and writes its pickled autotuner, as
it stands in a graph, and the winner; `load` does what torch does when it takes the graph from its cache. Prints, by
case, what won, or what is left to choose from.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

SOURCE = """
import triton
import triton.language as tl
from torch._inductor.runtime import triton_heuristics
from torch._inductor.runtime.hints import ReductionHint, DeviceProperties

@triton_heuristics.reduction(
    size_hints={{'x': 65536, 'r0_': 4096}},
    reduction_hint=ReductionHint.INNER,
    filename=__file__,
    triton_meta={{
        'signature': {{'in_ptr0': '*fp32', 'out_ptr0': '*fp32', 'xnumel': 'i32', 'r0_numel': 'i32',
                       'XBLOCK': 'constexpr', 'R0_BLOCK': 'constexpr'}},
        'device': DeviceProperties(type='cuda', index=0, multi_processor_count=132, cc=90, major=9,
                                   regs_per_multiprocessor=65536, max_threads_per_multi_processor=2048, warp_size=32),
        'device_type': 'cuda', 'constants': {{}}, 'configs': [{{}}]}},
    inductor_meta={{
        'kernel_name': 'row_sum', 'case': '{case}', 'backend_hash': 'X',
        'autotune_local_cache': True, 'autotune_remote_cache': None,
        'force_disable_caches': False, 'max_autotune': {max_autotune}, 'coordinate_descent_tuning': {coordesc},
        'assert_indirect_indexing': True, 'num_load': 1, 'num_store': 1, 'num_reduction': 1, 'grid_type': 'Grid1D'}},
)
@triton.jit
def row_sum(in_ptr0, out_ptr0, xnumel, r0_numel, XBLOCK: tl.constexpr, R0_BLOCK: tl.constexpr):
    rows = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)[:, None]
    total = tl.full([XBLOCK, R0_BLOCK], 0, tl.float32)
    for begin in tl.range(0, r0_numel, R0_BLOCK):
        columns = begin + tl.arange(0, R0_BLOCK)[None, :]
        total += tl.load(in_ptr0 + rows * r0_numel + columns, columns < r0_numel, other=0.0)
    tl.store(out_ptr0 + rows, tl.sum(total, 1)[:, None], rows < xnumel)
"""

#: Case -> (whether several configurations are tried, coordinate descent, what wins, given the configurations).
CASES: dict[str, tuple[bool, bool, Any]] = {
    "coordesc-of-one": (False, True, lambda configs: changed(configs[0], num_warps=2)),
    "coordesc-stays": (False, True, lambda configs: configs[0]),
    "coordesc-stays-of-many": (True, True, lambda configs: configs[1]),
    "coordesc-of-many": (True, True, lambda configs: changed(configs[0], num_warps=2)),
    "one-of-many": (True, False, lambda configs: configs[1]),
    "scaled": (True, False, lambda configs: changed(configs[0], R0_BLOCK=configs[0].kwargs["R0_BLOCK"] // 4)),
}


def changed(config: Any, **what: int) -> Any:
    from torch._inductor.runtime.triton_compat import Config

    constants = {name: what.pop(name, value) for name, value in config.kwargs.items()}
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages, **what}
    return Config(constants, **options)


def kernel(case: str) -> Any:
    from torch._inductor.codecache import PyCodeCache

    several, coordesc, _ = CASES[case]
    # The name of a winner's file is made of the source's, so each case has a source of its own.
    return PyCodeCache.load(SOURCE.format(case=case, max_autotune=several, coordesc=coordesc)).row_sum


def save(case: str, folder: Path) -> dict[str, Any]:
    """Do what a first worker does: in a compile worker, for the graph, and after the first call."""
    autotuner = kernel(case)
    autotuner.precompile(warm_cache_only=True)
    several, coordesc, wins = CASES[case]
    configs = [result.config for result in autotuner.compile_results]
    assert (len(configs) > 1) == several, configs
    winner = wins(configs)
    autotuner.save_cache_hook(winner, 0, found_by_coordesc=coordesc)
    autotuner._precompile_config(winner)
    autotuner.prepare_for_pickle()
    autotuner.prepare_for_caching()
    (folder / f"{case}.pickle").write_bytes(pickle.dumps(autotuner))
    return {"choices": [shown(winner)], "tuned": True}


def load(case: str, folder: Path) -> dict[str, Any]:
    """Do what torch does with a graph of its cache (`StaticAutotunerFuture.result`)."""
    autotuner = pickle.loads((folder / f"{case}.pickle").read_bytes())
    autotuner.restore_after_unpickle(None)
    autotuner.recheck_autotune_cache(reload_kernel_from_src=lambda: kernel(case))
    autotuner._reload_kernel = lambda: kernel(case)
    autotuner._make_launchers = lambda: None
    for result in autotuner.compile_results:
        result.kernel.n_regs = 255
    autotuner._dynamic_scale_rblock()
    configs = [result.config for result in autotuner.compile_results]
    # torch tunes on from what is not marked.
    tuned = not CASES[case][1] or all(getattr(config, "found_by_coordesc", False) for config in configs)
    return {"choices": [shown(config) for config in configs], "tuned": tuned}


def shown(config: Any) -> dict[str, int]:
    return {**config.kwargs, "num_warps": config.num_warps, "num_stages": config.num_stages}


if __name__ == "__main__":
    import torch  # noqa: F401 - loads the plugin
    from torch._inductor.runtime import triton_helpers

    triton_helpers.set_driver_to_gpu = lambda: None
    action = {"save": save, "load": load}[sys.argv[1]]
    print(json.dumps({case: action(case, Path(os.environ["AUTOTUNED_FOLDER"])) for case in CASES}))
