"""Autotune results of Inductor: looked up and saved in this process's own folder, and taken up where torch leaves them.

Static autotuners are pickled with the absolute path of the writer's folder, which the reader may not even be allowed
to enter (`autotune_get`, `autotune_put`). And some winners torch saves and does not take up again, or does not save, so
that every process would time anew:

torch looks for the saved winner of a kernel when it compiles the kernel (`check_autotune_cache`), and again when it
loads the kernel's configurations from a graph (`CachingAutotuner.recheck_autotune_cache`; both in
torch/_inductor/runtime/triton_heuristics.py). What it misses:

========================================================================================  ==============
a winner of coordinate descent, where the graph has one configuration of the kernel       2.11
a winner of coordinate descent that is among the graph's configurations                   2.11
a winner that `_dynamic_scale_rblock` added after the graph was saved                     2.11 and 2.12
that nothing is to be added, and timed again, beside a winner                             2.11 and 2.12
any winner, where `_dynamic_scale_rblock` added to a single configuration                 2.11 to 2.13
========================================================================================  ==============

torch 2.13 does the first four in the same functions, and 2.14 the last; what is here gives older ones the same outcome.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tritonsync.plugins.edge import edge
from tritonsync.session import session

__all__ = ["autotune_get", "autotune_put", "rebuilding", "rechecking", "remembering"]

#: What a saved winner says beside the kernel's own constants (torch/_inductor/runtime/autotune_cache.py, `save`).
_OPTIONS = ("num_warps", "num_stages", "num_consumer_groups", "num_buffers_warp_spec")
_FACTS = ("configs_hash", "found_by_coordesc", "time_taken_ms", "triton_cache_hash", "extra_options")


def autotune_get(cache_dir: Callable[[], str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make `LocalAutotuneCache._get` look into this process's own folder; what cannot be read is a miss.

    Static autotuners are pickled with the absolute path of the writer's folder, which the reader may not even be
    allowed to enter.
    """

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _get(cache: Any, key: str, sample: Any) -> Any:  # noqa: ANN401
            try:
                return original(cache, _inside(cache_dir, key), sample)
            except OSError:
                return None

        return _get

    return make


def autotune_put(cache_dir: Callable[[], str]) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make `LocalAutotuneCache._put` write into this process's own folder; what cannot be written is left out."""

    def make(original: Callable[..., Any]) -> Callable[..., None]:
        def _put(cache: Any, key: str, value: Any, sample: Any) -> None:  # noqa: ANN401
            path = _inside(cache_dir, key)
            try:
                original(cache, path, value, sample)
            except OSError:
                return
            _saved(path)

        return _put

    return make


@edge(None)
def _saved(path: str) -> None:
    """Note that this process has found out which configuration is the best."""
    now = session.current()
    if now is not None:
        folder, name = os.path.split(path)
        now.note_autotuned(os.path.basename(folder), name)  # noqa: PTH119


def _inside(cache_dir: Callable[[], str], key: str) -> str:
    return _moved(cache_dir, key) or key


@edge(None)
def _moved(cache_dir: Callable[[], str], key: str) -> str | None:
    """Return `<cache>/<aa>/<sha>.best_config` for one that lies elsewhere."""
    folder, name = os.path.split(key)
    base = cache_dir()
    if not name.endswith(".best_config") or os.path.dirname(folder) == base:  # noqa: PTH120
        return None
    return os.path.join(base, os.path.basename(folder), name)  # noqa: PTH118, PTH119


def rebuilding(config_class: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make `_load_cached_autotuning` return winners that are not among the configurations it is given.

    Args:
        config_class: Triton's `Config`, as torch uses it.
    """

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _load_cached_autotuning(best_config: Any, configs_hash: str, configs: Any, inductor_meta: Any) -> Any:  # noqa: ANN401
            saved = dict(best_config or {})  # the original empties its own
            found = original(best_config, configs_hash, configs, inductor_meta)
            return _rebuilt(config_class, saved, configs_hash, configs) if found is None else found

        return _load_cached_autotuning

    return make


@edge(None)
def _rebuilt(config_class: type, saved: Mapping[str, Any], configs_hash: str, configs: Sequence[Any]) -> Any:  # noqa: ANN401
    constants = {name: value for name, value in saved.items() if name not in (*_OPTIONS, *_FACTS)}
    # Same constants as the configurations that it was found among: that is this kernel.
    if saved.get("configs_hash") != configs_hash or not configs or constants.keys() != configs[0].kwargs.keys():
        return None
    config: Any = config_class(constants, **{name: saved[name] for name in _OPTIONS if name in saved})
    config.found_by_coordesc = False  # torch 2.11 asks for it
    return config


def remembering(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make `check_autotune_cache` keep the winner of a reduction with one configuration, which may get a second one."""

    def check_autotune_cache(configs: Any, filename: Any, inductor_meta: Any) -> Any:  # noqa: ANN401
        if len(configs) == 1 and _may_be_scaled(inductor_meta):
            # As if coordinate descent were to come: the one case in which torch looks for a better one.
            configs, cache, info = original(configs, filename, {**inductor_meta, "coordinate_descent_tuning": True})
            told = {name: fact for name, fact in info.items() if not name.startswith("coordesc")}
            return configs, cache, told
        return original(configs, filename, inductor_meta)

    return check_autotune_cache


@edge(False)
def _may_be_scaled(inductor_meta: Mapping[str, Any]) -> bool:
    return (
        inductor_meta.get("num_reduction", 0) > 0
        and not inductor_meta.get("persistent_reduction")
        and not inductor_meta.get("coordinate_descent_tuning")
        and bool(inductor_meta.get("dynamic_scale_rblock", True))
    )


def rechecking(heuristics: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:  # noqa: ANN401
    """Make `recheck_autotune_cache` keep nothing but the winner, where one was saved.

    Args:
        heuristics: `torch._inductor.runtime.triton_heuristics`.
    """

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def recheck_autotune_cache(self: Any, reload_kernel_from_src: Callable[[], Any]) -> None:  # noqa: ANN401
            configs = [result.config for result in self.compile_results]
            original(self, reload_kernel_from_src)
            winner = _winner(heuristics, self, configs)
            if winner is not None:
                _keep(heuristics, self, winner, reload_kernel_from_src)

        return recheck_autotune_cache

    return make


@edge(None)
def _winner(heuristics: Any, autotuner: Any, configs: Sequence[Any]) -> Any:  # noqa: ANN401
    """Return the saved winner, None where there is none."""
    if (autotuner.autotune_cache_info or {}).get("autotune_cache_state") != "hit":
        return None
    found, _, _ = heuristics.check_autotune_cache(configs, autotuner.filename, autotuner.inductor_meta)
    return found[0] if len(found) == 1 else None


# Not our own time: Triton takes the kernel from its cache, or compiles it, as torch itself does for other winners.
@edge(None, is_own=False)
def _keep(heuristics: Any, autotuner: Any, winner: Any, reload_kernel_from_src: Callable[[], Any]) -> None:  # noqa: ANN401
    same = heuristics.triton_config_to_hashable
    here = [result for result in autotuner.compile_results if same(result.config) == same(winner)]
    if here:
        kept = here[0]
        kept.config.found_by_coordesc = getattr(winner, "found_by_coordesc", False)
    else:
        if autotuner.fn.fn is None:
            autotuner.fn = reload_kernel_from_src().fn
        kept = autotuner._precompile_config(winner)  # noqa: SLF001 - torch's own name for it
    autotuner.compile_results = [kept]
    autotuner.inductor_meta = {**autotuner.inductor_meta, "dynamic_scale_rblock": False}
