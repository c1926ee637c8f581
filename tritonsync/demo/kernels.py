"""Compile kernels with Triton for an H100/H200 (sm_90); no GPU is needed for that. A script: see `run.py`.

Prints one JSON object: for each kernel its name, its hash, and whether Triton took it from its cache, in Triton's own
words (`knobs.compilation.listener`; triton/compiler/compiler.py, 3.6 and 3.9).
"""

from __future__ import annotations

import argparse
import itertools
import json
import time

import triton
import triton.language as tl
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def axpy(x, y, out, n, a, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, a * tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n), mask=at < n)


@triton.jit
def gelu(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n)
    tl.store(out + at, value * 0.5 * (1.0 + tl.math.erf(value * 0.7071067811865476)), mask=at < n)


@triton.jit
def swiglu(gate, up, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    left = tl.load(gate + at, mask=at < n)
    tl.store(out + at, left * tl.sigmoid(left) * tl.load(up + at, mask=at < n), mask=at < n)


@triton.jit
def dropout(x, out, n, p, seed, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = tl.rand(seed, at) > p
    tl.store(out + at, tl.where(keep, tl.load(x + at, mask=at < n) / (1.0 - p), 0.0), mask=at < n)


@triton.jit
def softmax(x, out, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.load(x + tl.program_id(0) * n + at, mask=at < n, other=float("-inf"))
    top = tl.exp(row - tl.max(row, axis=0))
    tl.store(out + tl.program_id(0) * n + at, top / tl.sum(top, axis=0), mask=at < n)


@triton.jit
def layer_norm(x, out, n, eps, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.load(x + tl.program_id(0) * n + at, mask=at < n, other=0.0)
    centred = tl.where(at < n, row - tl.sum(row, axis=0) / n, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / n + eps)
    tl.store(out + tl.program_id(0) * n + at, centred * scale, mask=at < n)


@triton.jit
def rms_norm(x, weight, out, n, eps, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.load(x + tl.program_id(0) * n + at, mask=at < n, other=0.0)
    scale = tl.rsqrt(tl.sum(row * row, axis=0) / n + eps)
    tl.store(out + tl.program_id(0) * n + at, row * scale * tl.load(weight + at, mask=at < n), mask=at < n)


@triton.jit
def cross_entropy(logits, labels, out, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.load(logits + tl.program_id(0) * n + at, mask=at < n, other=float("-inf"))
    top = tl.max(row, axis=0)
    total = tl.log(tl.sum(tl.exp(row - top), axis=0)) + top
    label = tl.load(labels + tl.program_id(0))
    tl.store(out + tl.program_id(0), total - tl.sum(tl.where(at == label, row, 0.0), axis=0))


@triton.jit
def cumulative_sum(x, out, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.load(x + tl.program_id(0) * n + at, mask=at < n, other=0.0)
    tl.store(out + tl.program_id(0) * n + at, tl.cumsum(row, axis=0), mask=at < n)


@triton.jit
def histogram(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bins = tl.load(x + at, mask=at < n, other=0).to(tl.int32) & 63
    tl.atomic_add(out + tl.arange(0, 64), tl.histogram(bins, 64))


@triton.jit
def transpose(x, out, n, BLOCK: tl.constexpr):
    SIDE: tl.constexpr = BLOCK // 32
    rows = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    columns = tl.program_id(1) * 32 + tl.arange(0, 32)
    inside = (rows[:, None] < n) & (columns[None, :] < n)
    tile = tl.load(x + rows[:, None] * n + columns[None, :], mask=inside)
    tl.store(out + columns[:, None] * n + rows[None, :], tl.trans(tile), mask=tl.trans(inside))


@triton.jit
def matmul(a, b, out, n, BLOCK: tl.constexpr):
    SIDE: tl.constexpr = BLOCK // 16
    rows = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    columns = tl.program_id(1) * 64 + tl.arange(0, 64)
    total = tl.zeros((SIDE, 64), dtype=tl.float32)
    for start in range(0, n, 32):
        depth = start + tl.arange(0, 32)
        left = tl.load(a + rows[:, None] * n + depth[None, :], mask=depth[None, :] < n, other=0.0)
        right = tl.load(b + depth[:, None] * n + columns[None, :], mask=depth[:, None] < n, other=0.0)
        total += tl.dot(left, right)
    tl.store(out + rows[:, None] * n + columns[None, :], total)


#: Kernel and the types of its arguments; the last one is always the block size.
KERNELS = (
    (axpy, ("*fp32", "*fp32", "*fp32", "i32", "fp32")),
    (gelu, ("*fp32", "*fp32", "i32")),
    (swiglu, ("*fp32", "*fp32", "*fp32", "i32")),
    (dropout, ("*fp32", "*fp32", "i32", "fp32", "i32")),
    (softmax, ("*fp32", "*fp32", "i32")),
    (layer_norm, ("*fp32", "*fp32", "i32", "fp32")),
    (rms_norm, ("*fp32", "*fp32", "*fp32", "i32", "fp32")),
    (cross_entropy, ("*fp32", "*i64", "*fp32", "i32")),
    (cumulative_sum, ("*fp32", "*fp32", "i32")),
    (histogram, ("*i64", "*i32", "i32")),
    (transpose, ("*fp32", "*fp32", "i32")),
    (matmul, ("*fp16", "*fp16", "*fp32", "i32")),
)
#: Block size and number of warps: what an autotuner would try. Each makes another binary of each kernel.
SHAPES = tuple(itertools.product((1024, 512, 2048, 256), (4, 8, 2, 1)))


def main() -> None:
    """Compile as many kernels as asked for, into the cache folder that is named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("cache_dir")
    parser.add_argument("count", type=int)
    given = parser.parse_args()
    # What these were set to by the environment would make the result say nothing about the folder.
    knobs.cache.dir = given.cache_dir
    knobs.cache.manager_class = None
    knobs.compilation.always_compile = False
    hits: list[bool] = []
    knobs.compilation.listener = lambda **told: hits.append(told["cache_hit"])
    target = GPUTarget("cuda", 90, 32)
    started = time.perf_counter()
    compiled = []
    for (block, warps), (kernel, types) in itertools.islice(itertools.product(SHAPES, KERNELS), given.count):
        signature = dict(zip(kernel.arg_names, (*types, "constexpr"), strict=True))
        source = ASTSource(kernel, signature=signature, constexprs={"BLOCK": block})
        made = triton.compile(source, target=target, options={"num_warps": warps})
        compiled.append({"name": made.metadata.name, "hash": made.metadata.hash, "hit": hits[-1]})
    seconds = time.perf_counter() - started
    print(json.dumps({"triton": triton.__version__, "kernels": compiled, "seconds": seconds}))


if __name__ == "__main__":
    main()
