# ruff: noqa: T201
"""Helion's own cache of configurations: `python helion_config.py local|remote put|get`.

The key is a real one; of the kernel, which would need a GPU, there is what saving asks for. Prints what `get` finds.
"""
# mypy: ignore-errors

from __future__ import annotations

import sys
import types

from helion.autotuner import local_cache, remote_cache
from helion.autotuner.base_cache import LooseAutotuneCacheKey
from helion.runtime.config import Config

import tritonsync
from tritonsync.session import session

SPEC = types.SimpleNamespace(
    create_config_generation=lambda **_: types.SimpleNamespace(flatten=lambda config: list(config.config.values()))
)


def cache_of(kind):
    made = object.__new__(type("Cache", (kind,), {"__abstractmethods__": frozenset()}))
    made.key = LooseAutotuneCacheKey(
        specialization_key=(("float32", (1024,)),),
        extra_results=(),
        kernel_source_hash="ab" * 32,
        hardware="NVIDIA H200",
        runtime_name="13.0",
        backend="triton",
    )
    made.kernel = types.SimpleNamespace(config_spec=SPEC, backend_cache_key=lambda _: "key")
    made.autotuner = types.SimpleNamespace(settings=types.SimpleNamespace(autotune_search_acf=None))
    return made


tritonsync.install()
local_cache.bound_structural_policy = remote_cache.bound_structural_policy = lambda _: None
where, what = sys.argv[1:]
cache = cache_of(local_cache.LocalAutotuneCache if where == "local" else remote_cache.RemoteAutotuneCache)
if where == "remote":
    cache._backend = remote_cache._load_remote_backend()
if what == "put":
    cache.put(Config(num_warps=4))
else:
    print(cache.get().config)
session.stop()
