"""Patches torch.compile, a function for each plug point. Only this file and `precompile*` import torch.

Each `patch_*` function is called with a module of torch once that is imported. What they rely on was read in torch
2.11 and 2.13 to 2.15; where a signature differs, all of it is taken back, with one warning, and torch works as ever.

torch's own switches for remote caches stay off: they are part of the AOTAutograd key.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import pickle
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tritonsync.bundler import StaticAutotuner
from tritonsync.errors import LocalCacheError
from tritonsync.format.manifest import Environment
from tritonsync.format.ranks import Rank
from tritonsync.local.cpu import NO_ISA, host_cpu
from tritonsync.local.triton_cache import default_triton_dir
from tritonsync.messages import warn_once
from tritonsync.plugins.edge import Patches, UnknownProgramError, edge
from tritonsync.plugins.inductor_autotune import autotune_get, autotune_put, rebuilding, rechecking, remembering
from tritonsync.plugins.inductor_graphs import GraphCaches
from tritonsync.plugins.pgo import pgo_cache_class
from tritonsync.session import session
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.environment import host_environment

__all__ = [
    "load_static_autotuner",
    "patch_autograd_cache",
    "patch_autotune_cache",
    "patch_codecache",
    "patch_compile_tasks",
    "patch_heuristics",
    "patch_pgo",
    "patch_remote_cache",
    "remove",
]

log = logging.getLogger(__name__)

_patches = Patches()
_given_up = False


def _careful(patch: Callable[[Any], None]) -> Callable[[ModuleType], None]:
    """Take everything back where torch is not as expected."""

    @functools.wraps(patch)
    def guarded(module: ModuleType) -> None:
        global _given_up
        if _given_up:
            return
        try:
            patch(module)
        except (UnknownProgramError, AttributeError) as exc:
            _given_up = True
            _patches.undo()
            version = getattr(sys.modules.get("torch"), "__version__", "?")
            warn_once(log, "torch", "stays out of torch.compile: torch %s is not known, %s", version, exc)

    return guarded


def remove() -> None:
    """Take tritonsync out of torch."""
    global _given_up
    _patches.undo()
    _given_up = False


@_careful
def patch_codecache(codecache: Any) -> None:  # noqa: ANN401
    """Plug into `torch._inductor.codecache`."""
    parameters = ("cls", "local", "remote_cache", "key")
    _patches.replace(codecache.GuardedCache, "iterate_over_candidates", parameters, _graphs.candidates)
    _patches.replace(codecache.FxGraphCache, "_write_to_local_cache", ("key", "content"), _graphs.write("fx_graph"))
    with contextlib.suppress(UnknownProgramError):  # it only tells where graphs come from
        of_key = ("gm", "example_inputs", "fx_kwargs", "inputs_to_check", "remote")
        _patches.replace(codecache.FxGraphCache, "prepare_key", of_key, _graphs.prepare)
    _patches.replace(codecache.InductorCacheArtifact, "populate_cache", ("self",), _graphs.populate)
    session.set_host(
        session.Host(
            caches=_caches,
            cpu=_cpu,
            environment=_environment,
            extern_libs_key=_extern_libs_key,
            rank=_rank,
            has_custom_passes=_has_custom_passes,
            switched_off=_switched_off,
        )
    )


@_careful
def patch_autograd_cache(autograd_cache: Any) -> None:  # noqa: ANN401
    """Plug into `torch._functorch._aot_autograd.autograd_cache`."""
    write = _graphs.write("aot_autograd")
    _patches.replace(autograd_cache.AOTAutogradCache, "_write_to_local_cache", ("key", "content"), write)
    _patches.replace(autograd_cache.AOTAutogradCacheArtifact, "populate_cache", ("self",), _graphs.populate)
    # The last of the modules that every compile imports: torch is as expected.
    now = session.current()
    if now is not None:
        now.graph_caches_are_known()


@_careful
def patch_remote_cache(remote_cache: Any) -> None:  # noqa: ANN401
    """Plug into `torch._inductor.remote_cache`, which holds the local autotune cache since torch 2.13."""
    if hasattr(remote_cache, "LocalAutotuneCache"):
        _patch_autotune(remote_cache.LocalAutotuneCache)


@_careful
def patch_autotune_cache(autotune_cache: Any) -> None:  # noqa: ANN401
    """Plug into `torch._inductor.runtime.autotune_cache`, which holds the local autotune cache up to torch 2.12."""
    local = autotune_cache.LocalAutotuneCache
    if local.__module__ == autotune_cache.__name__:
        _patch_autotune(local)
    if _is_before(2, 13):
        parameters = ("best_config", "configs_hash", "configs", "inductor_meta")
        make = rebuilding(autotune_cache.Config)
        _patches.replace(autotune_cache, "_load_cached_autotuning", parameters, make)


@_careful
def patch_heuristics(heuristics: Any) -> None:  # noqa: ANN401
    """Plug into `torch._inductor.runtime.triton_heuristics`, where torch looks for the winner of an autotuning."""
    if _is_before(2, 14):
        _patches.replace(heuristics, "check_autotune_cache", ("configs", "filename", "inductor_meta"), remembering)
    if _is_before(2, 13):
        parameters = ("self", "reload_kernel_from_src")
        _patches.replace(heuristics.CachingAutotuner, "recheck_autotune_cache", parameters, rechecking(heuristics))


@_careful
def patch_compile_tasks(compile_tasks: Any) -> None:  # noqa: ANN401
    """Let this process choose its ptxas now, as its compile workers do: `torch._inductor.runtime.compile_tasks`.

    Triton's hash of a kernel names the version of ptxas that a process found when it first asked. Wheels of torch 2.11
    and 2.12 bring a ptxas of their own, which compile workers choose when they start, but the program only when it
    compiles its first kernel by itself; it has often asked before. So the same kernel has one hash in a worker and
    another one in the program (of the nine kernels of a ViT that can be told, compiled on an H200, five have the one
    and four the other), and a second process, whose order is another, compiles some of them again.
    """
    compile_tasks._set_triton_ptxas_path()  # noqa: SLF001 - there is no other place that knows
    compiler = sys.modules.get("triton.backends.nvidia.compiler")
    if compiler is not None:
        compiler.get_ptxas_version.cache_clear()


def _is_before(major: int, minor: int) -> bool:
    import torch

    return bool(torch.__version__ < (major, minor))


def _patch_autotune(local_cache: Any) -> None:  # noqa: ANN401
    _patches.replace(local_cache, "_get", ("self", "key", "sample"), autotune_get(_cache_dir))
    _patches.replace(local_cache, "_put", ("self", "key", "value", "sample"), autotune_put(_cache_dir))


@_careful
def patch_pgo(pgo: Any) -> None:  # noqa: ANN401
    """Plug into `torch._dynamo.pgo`: where no remote cache of profiles is chosen, it is ours."""

    def make(original: Callable[[], Any]) -> Callable[[], Any]:
        def get_remote_cache() -> Any:  # noqa: ANN401
            return original() or _profiles()

        return get_remote_cache

    _patches.replace(pgo, "get_remote_cache", (), make)


@edge(None)
def _profiles() -> Any:  # noqa: ANN401
    from torch._dynamo import config as dynamo_config
    from torch._inductor.remote_cache import RemoteCache
    from torch.compiler import config

    chosen = dynamo_config.automatic_dynamic_remote_pgo
    if config.force_disable_caches or chosen is not None or session.current() is None:
        return None
    return pgo_cache_class(RemoteCache)()


def load_static_autotuner(autotuner: StaticAutotuner) -> None:
    """Put a static autotuner into torch's table of compiled kernels, where its graph will look for it.

    ::

        TritonBundler(settings, triton_cache_dir, load_autotuner=load_static_autotuner)

    The last step is that of torch's own TritonBundler: the binaries are looked up in Triton's cache folder of this
    process, and the table gets a `StaticAutotunerFuture` (torch/_inductor/triton_bundler.py `load_autotuners`, 2.13).
    The autotuner is unpickled, which runs code of whoever made it.

    Raises:
        LocalCacheError: a binary that it launches is not there, or torch is told to launch kernels by Triton.
    """
    from torch._inductor import config
    from torch._inductor.triton_bundler import StaticallyLaunchedAutotuner, TritonBundler

    if not config.use_static_triton_launcher:
        raise LocalCacheError("torch launches kernels by Triton (config.use_static_triton_launcher is off)")
    kernel = pickle.loads(autotuner.kernel)  # noqa: S301 - see above
    theirs = StaticallyLaunchedAutotuner(autotuner.cache_key, autotuner.kernel_name, kernel)
    if not TritonBundler.load_autotuners([theirs]):
        raise LocalCacheError(f"a binary of the static autotuner {autotuner.kernel_name} is not in Triton's cache")


def _cache_dir() -> str:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return str(cache_dir())


def _triton_cache_dir(device: int | None) -> Path:
    from torch._inductor.runtime.cache_dir_utils import triton_cache_dir

    return Path(triton_cache_dir(device))


def _caches() -> LocalCaches:
    return LocalCaches(
        inductor=Path(_cache_dir()),
        graph_kernels=_triton_cache_dir,
        plain_kernels=lambda device: _plain_kernels() if device is None else _triton_cache_dir(device),
    )


def _plain_kernels() -> Path:
    knobs = sys.modules.get("triton.knobs")
    return default_triton_dir() if knobs is None else Path(knobs.cache.dir)


def _cpu() -> str:
    """Return `machine:isa` as torch has picked it, or would pick it.

    Lookups torch compiles a probe where it has not been asked before, which a program without CPU graphs never does.
    """
    from torch._inductor import config, cpu_vec_isa

    now = session.current()
    host = host_cpu(None if now is None else now.settings.cpu_capability)
    if not cpu_vec_isa.valid_vec_isa_list.cache_info().currsize and config.cpp.simdlen is None:
        return host
    picked = cpu_vec_isa.pick_vec_isa()
    isa = str(picked) if picked else NO_ISA
    # On arm64 the host's text says more: torch calls SVE of all lengths `asimd`.
    return host if host.partition(":")[2].startswith(f"{isa} sve") else f"{platform.machine()}:{isa}"


def _rank() -> Rank:
    """Return the rank in the default group, or what the launcher says as long as there is none."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return Rank(distributed.get_world_size(), distributed.get_rank())
    now = session.current()
    if now is None or now.settings.rank is None or now.settings.world_size is None:
        return Rank(1, 0)
    return Rank(now.settings.world_size, now.settings.rank)


#: Where torch is given passes over graphs (torch/_inductor/config.py, 2.11 and 2.13). Most values say it themselves;
#: those made with `bundled_autograd_cache` do not.
_CUSTOM_PASSES = (
    "pre_grad_custom_pass",
    "joint_custom_pre_pass",
    "joint_custom_post_pass",
    "post_grad_custom_pre_pass",
    "post_grad_custom_post_pass",
    "_pre_fusion_custom_pass",
    "_post_fusion_custom_pass",
    "custom_partitioner_fn",
)


def _has_custom_passes() -> bool:
    from torch._inductor import config

    return any(getattr(config, name, None) for name in _CUSTOM_PASSES)


def _switched_off() -> str | None:
    """Return the setting by which torch looks into no cache (torch/_inductor/compile_fx.py, 2.11 to 2.14)."""
    from torch._inductor import config

    if config.force_disable_caches:
        return "torch._inductor.config.force_disable_caches"
    return None if config.fx_graph_cache else "torch._inductor.config.fx_graph_cache"


def _environment() -> Environment:
    import torch

    triton = sys.modules.get("triton")
    device = target = None
    if torch.cuda.is_initialized():
        device = torch.cuda.get_device_name()
        if not torch.version.hip:
            major, minor = torch.cuda.get_device_capability()
            target = f"cuda:{major}{minor}"
    return host_environment(
        torch=str(torch.__version__),
        triton=getattr(triton, "__version__", None),
        cuda=torch.version.cuda,
        device=device,
        target=target,
    )


@functools.cache
def _extern_libs_key() -> str | None:
    """Return torch's key of this host's libdevice (torch/_inductor/codecache.py `_lookup_graph`, 2.13 and later)."""
    from torch.utils import _triton

    try:
        return str(_triton._extern_libs_key(_triton.triton_backend()))  # noqa: SLF001
    except Exception:  # noqa: BLE001 - torch takes any failure for "none", and so do we
        return None


_graphs = GraphCaches()
