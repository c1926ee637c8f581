"""A program of hand-written kernels: run on an NVIDIA GPU, `python plain_kernels.py plain|model`, by plain_triton.py.

The last line that it prints is one JSON object: whether the results are right, what Triton's listener and autotuner
did, and how long the first launches took, imports and the CUDA context not included.
"""
# mypy: ignore-errors
# ruff: noqa: N803

from __future__ import annotations

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402

import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton import knobs  # noqa: E402
from triton.runtime.autotuner import Autotuner  # noqa: E402

SIZE = 512


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out + at, tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), mask=inside)


@triton.jit
def softmax_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.load(x + tl.program_id(0) * n + at, mask=at < n, other=float("-inf"))
    top = tl.exp(row - tl.max(row, axis=0))
    tl.store(out + tl.program_id(0) * n + at, top / tl.sum(top, axis=0), mask=at < n)


CONFIGS = [
    triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": 32}, num_warps=warps)
    for rows, columns, warps in ((64, 64, 4), (64, 128, 4), (128, 128, 8))
]


# Triton keeps the timings of this one on disk because it says so, and those of the next one because
# TRITON_CACHE_AUTOTUNING=1 says so; without either, every process measures anew (triton/runtime/autotuner.py, 3.6).
@triton.autotune(configs=CONFIGS, key=["n"], cache_results=True)
@triton.jit
def matmul_kernel(a, b, out, n, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, n, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        total += tl.dot(
            tl.load(a + rows[:, None] * n + depth[None, :]), tl.load(b + depth[:, None] * n + columns[None, :])
        )
    tl.store(out + rows[:, None] * n + columns[None, :], total)


@triton.autotune(configs=[triton.Config({"BLOCK": 512}), triton.Config({"BLOCK": 1024})], key=["n"])
@triton.jit
def relu_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.maximum(tl.load(x + at, mask=at < n), 0.0), mask=at < n)


def watch() -> dict:
    """Count, in this process, what Triton compiles, finds and times."""
    told = {"compiled": [], "hits": 0, "timed": 0}
    other, bench = knobs.compilation.listener, Autotuner._bench

    def listener(**facts) -> None:
        if facts["cache_hit"]:
            told["hits"] += 1
        else:
            told["compiled"].append(str(facts["metadata"].get("name")))
        if other is not None:
            other(**facts)

    def counted(*args, **kwargs):
        told["timed"] += 1
        return bench(*args, **kwargs)

    knobs.compilation.listener, Autotuner._bench = listener, counted
    return told


def plain(x, y, half) -> list[bool]:
    """Launch each kernel by hand."""
    n = x.numel()
    total, top, product, positive = (
        torch.empty_like(x),
        torch.empty_like(x),
        torch.empty(SIZE, SIZE, device="cuda"),
        x.clone(),
    )
    add_kernel[(triton.cdiv(n, 1024),)](x, y, total, n, BLOCK=1024)
    softmax_kernel[(SIZE,)](x, top, SIZE, BLOCK=SIZE)
    matmul_kernel[lambda meta: (SIZE // meta["ROWS"], SIZE // meta["COLUMNS"])](half, half, product, SIZE)
    relu_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, positive, n)
    torch.cuda.synchronize()
    return [
        torch.equal(total, x + y),
        torch.allclose(top, torch.softmax(x, dim=1), atol=1e-6),
        torch.allclose(product, half.float() @ half.float(), rtol=1e-2, atol=1e-1),
        torch.equal(positive, torch.relu(x)),
    ]


def mixed(x, y):
    """What torch.compile gets: its own kernels around one of the user's."""
    left = torch.nn.functional.gelu(x) * 2
    out = torch.empty_like(left)
    add_kernel[(triton.cdiv(left.numel(), 1024),)](left, y, out, left.numel(), BLOCK=1024)
    return torch.softmax(out, dim=1) + y.mean()


def model(x, y, _half) -> list[bool]:
    """Call a compiled model."""
    result = torch.compile(mixed)(x, y)
    torch.cuda.synchronize()
    expected = torch.softmax(torch.nn.functional.gelu(x) * 2 + y, dim=1) + y.mean()
    return [torch.allclose(result, expected, rtol=1e-4, atol=1e-5)]


def main(name: str) -> None:
    imported = time.perf_counter()
    torch.manual_seed(0)
    x, y = torch.randn(2, SIZE, SIZE, device="cuda")
    half = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.float16)
    torch.cuda.synchronize()
    told = watch()
    began = time.perf_counter()
    right = {"plain": plain, "model": model}[name](x, y, half)
    ended = time.perf_counter()
    said = {
        "right": right,
        **told,
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "import_s": round(imported - STARTED, 4),
        "launch_s": round(ended - began, 4),
    }
    if "tritonsync.session.session" in sys.modules:
        now = sys.modules["tritonsync.session.session"].current()
        if now is not None:
            said |= {"own_s": now.counts.own_s, "waited_s": now.counts.waited_s}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
