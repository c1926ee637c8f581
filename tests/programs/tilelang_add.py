# ruff: noqa: T201, N812
"""TileLang compiles a kernel for an H200 that is not there, or takes it from its cache. Prints which.

It needs nvcc.
"""
# mypy: ignore-errors

from __future__ import annotations

import tilelang
import tilelang.language as T
from tilelang.cache.kernel_cache import KernelCache


@T.prim_func
def add(a: T.Tensor((1024,), "float32"), b: T.Tensor((1024,), "float32"), c: T.Tensor((1024,), "float32")):
    with T.Kernel(8, threads=128) as block:
        for at in T.Parallel(128):
            c[block * 128 + at] = a[block * 128 + at] + b[block * 128 + at]


found = []
load = KernelCache._load_kernel_from_disk


def note(*args, **kwargs):
    kernel = load(*args, **kwargs)
    found.append(kernel is not None)
    return kernel


KernelCache._load_kernel_from_disk = note
tilelang.compile(add, out_idx=[2], target={"kind": "cuda", "arch": "sm_90"}, execution_backend="tvm_ffi")
print("from its cache" if found == [True] else "compiled")
