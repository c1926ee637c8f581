"""Cache folders of other libraries that are known by name: where they are, what of them travels, and where it fits.

Read from the wheels of sgl-deep-gemm 0.1.7 and 0.2.5, tilelang 0.1.15, helion 1.5.1, flashinfer-python 0.7.2 and triton
3.6.0. To add one is to add a value to `PRESETS`.

Of a folder only that travels which a part of its preset describes: no locks, no logs, nothing that is being built. None
of these libraries keeps a device's index in its files or reads their times, and none of the files that travel is found
by an absolute path, so neither is kept. Left out on purpose: what ninja builds (FlashInfer's and torch's extensions,
which it takes for outdated by their times), Helion's and FlashInfer's own Triton and CuTe folders, and CUDA graphs.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from tritonsync.errors import LocalCacheError
from tritonsync.local import identity
from tritonsync.local.inductor_cache import default_inductor_dir
from tritonsync.local.triton_cache import default_triton_dir

__all__ = ["PRESETS", "Part", "Preset", "facts_of"]

Environ = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Part:
    """Files of one sort.

    Attributes:
        path: all of a file's path below the folder, parts joined by slashes.
        unit: what appears at one moment: each `file`, the `folder` that a file lies in, or `everything`, which is
            written only where there is nothing yet.
        needs: names without which a folder is not finished.
    """

    path: re.Pattern[str]
    unit: Literal["file", "folder", "everything"] = "file"
    needs: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Preset:
    """One cache folder.

    Attributes:
        name: what users call it.
        variable: what names the folder, for messages.
        folder: finds the folder, given the variables of a process.
        parts: what of it travels.
        libraries: whose wheels must be the same; of each, the names it is known by.
        facts: what else must be: names in `identity.FACTS`.
        needs: facts that must not be `none`.
        is_agreed: whether all ranks of a job must have the same files, since each would else take another way.
    """

    name: str
    variable: str
    folder: Callable[[Environ], Path]
    parts: tuple[Part, ...]
    libraries: tuple[tuple[str, ...], ...] = ()
    facts: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    is_agreed: bool = False


def facts_of(preset: Preset, environ: Environ) -> dict[str, str]:
    """Return what has to be the same where the files of this host are to be used.

    Raises:
        LocalCacheError: the library, or something it needs, is not here.
    """
    facts = {names[0]: identity.library(names) for names in preset.libraries}
    facts.update({name: identity.FACTS[name](environ) for name in preset.facts})
    for name in preset.needs:
        if facts[name] == identity.NONE:
            raise LocalCacheError(f"bundle {preset.name} is of no use here: this host has no {name}")
    return facts


_DEEPGEMM = ("deep-gemm", "sgl-deep-gemm")


def _deepgemm(environ: Environ) -> Path:
    # deep_jit, which came with sgl-deep-gemm 0.2, has another default, and takes several: it writes into the first.
    named = environ.get("DG_JIT_CACHE_DIR") or ""
    if identity.ships(_DEEPGEMM, "deep_jit"):
        named = (named or environ.get("DJ_JIT_CACHE_DIR") or "~/.dj").partition(os.pathsep)[0]
    return _path(named or "~/.deep_gemm")


def _flashinfer(environ: Environ) -> Path:
    base = environ.get("FLASHINFER_WORKSPACE_BASE") or "~"
    return _path(environ.get("FLASHINFER_AUTOTUNE_CACHE_DIR") or os.path.join(base, ".cache/flashinfer/autotune"))


def _helion(environ: Environ) -> Path:
    named = environ.get("HELION_CACHE_DIR")
    return _path(named) if named else default_inductor_dir(environ.get("TORCHINDUCTOR_CACHE_DIR")) / "helion"


def _path(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(text)))


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "deepgemm",
            "DG_JIT_CACHE_DIR",
            _deepgemm,
            # A folder without its binary ends the program, and `.committed`, which is empty, makes one count.
            (
                Part(
                    re.compile(r"cache/[^/]+/(kernel\.(cu|cubin|ptx|sass)|meta\.json|\.committed)"),
                    "folder",
                    frozenset({"kernel.cu", "kernel.cubin"}),
                ),
            ),
            libraries=(_DEEPGEMM,),
            facts=("gpu", "nvcc", "machine"),
        ),
        Preset(
            "tilelang",
            "TILELANG_CACHE_DIR",
            lambda environ: _path(environ.get("TILELANG_CACHE_DIR") or "~/.tilelang/cache"),
            (
                Part(
                    re.compile(r"[^/.][^/]*/[^/.][^/]*/(kernels|autotuner)/[^/.][^/]*/[^/.][^/]*"),
                    "folder",
                    frozenset({"params.json"}),
                ),
                Part(
                    re.compile(r"[^/.][^/]*/(cuda|ascend|hip)-binaries/[^/.][^/]*/[^/.][^/]*"),
                    "folder",
                    frozenset({"metadata.json"}),
                ),
            ),
            libraries=(("tilelang",), ("apache-tvm-ffi",)),
            # Its host code is linked here, and what it pickles is Python's.
            facts=("gpu", "nvcc", "machine", "libc", "python"),
        ),
        Preset(
            "triton-autotune",
            "TRITON_CACHE_DIR",
            lambda environ: default_triton_dir(environ.get("TRITON_CACHE_DIR"), environ.get("TRITON_HOME")),
            (Part(re.compile(r"[A-Z2-7a-z0-9_-]+/[^/]+\.autotune\.json")),),
            libraries=(("triton", "pytorch-triton", "pytorch-triton-rocm"),),
            # Triton's own key holds the architecture, not the model, and timings are of a model.
            facts=("gpu",),
        ),
        Preset(
            "helion",
            "HELION_CACHE_DIR",
            _helion,
            (Part(re.compile(r"[0-9a-f]{64}\.best_config")),),
            # Its usual key knows neither Helion's, nor Triton's, nor torch's version.
            libraries=(("helion",), ("triton", "pytorch-triton", "pytorch-triton-rocm"), ("torch",)),
            facts=("gpu", "rank"),
            is_agreed=True,
        ),
        Preset(
            "flashinfer-autotune",
            "FLASHINFER_AUTOTUNE_CACHE_DIR",
            _flashinfer,
            (Part(re.compile(r"v2/[0-9a-f]{16}/(manifest\.json|entries/[0-9a-f]{24}\.json)")),),
            libraries=(("flashinfer-python", "flashinfer"),),
            facts=("gpu", "driver", "rank"),
            is_agreed=True,
        ),
        Preset(
            "cuda-driver",
            "CUDA_CACHE_PATH",
            lambda environ: _path(environ.get("CUDA_CACHE_PATH") or "~/.nv/ComputeCache"),
            # One index for all, which only the driver can add to.
            (Part(re.compile(r"index|[0-9a-f]/[0-9a-f]/[0-9a-f]+"), "everything", frozenset({"index"})),),
            facts=("gpu", "driver", "machine"),
            needs=("driver",),
        ),
    )
}
