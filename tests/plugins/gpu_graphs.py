# ruff: noqa: N803
"""Programs that compile for a GPU: `python gpu_graphs.py <name>`. Prints torch's own counters, as programs.py does."""
# mypy: ignore-errors

from __future__ import annotations

import sys

import torch

from tests.plugins import absent_gpu  # after torch, which loads the plugin

import torch._inductor.config as inductor_config  # isort: skip
import triton  # isort: skip
import triton.language as tl  # isort: skip
from torch._subclasses.fake_tensor import FakeTensorMode  # isort: skip

from tests.plugins.programs import finish  # isort: skip


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out + at, tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), mask=inside)


def softmax(x, y):
    return torch.softmax(torch.relu(x) + y, 1)


def by_hand(x, y):
    """Call a kernel of the user's own: torch launches it by its hash, not by a static autotuner."""
    out = torch.empty_like(x)
    add_kernel[(4,)](x, y, out, x.numel(), BLOCK=1024)
    return torch.relu(out).sum(1)


def long_name(x, y):
    """Fuse so much that the kernel's name has over 150 characters: Triton cuts the names of its files there."""
    z = x
    for function in (torch.tanh, torch.sigmoid, torch.erf, torch.cos, torch.exp, torch.log1p, torch.rsqrt, torch.asinh):
        z = function(z) + y
    for function in (
        torch.atan,
        torch.floor,
        torch.trunc,
        torch.sign,
        torch.expm1,
        torch.sinh,
        torch.log10,
        torch.acos,
    ):
        z = function(z) * y
    return torch.nn.functional.silu(torch.nn.functional.softplus(torch.nn.functional.hardswish(z)))


def descent(x, y):
    """Let coordinate descent look for better configurations."""
    return softmax(x, y), (x * y).sin()


def scaled(x, y):
    """Reduce with so many registers that Inductor tries a smaller block too."""
    rows = torch.empty(65536, 4096, device="cuda")
    return (rows * 2).sum(1) + rows.amax(1)


def many(x, y):
    """Let torch choose between a persistent reduction and one that is not, when the graph runs."""
    return softmax(x, y)


#: What is set for a program.
CONFIGS = {
    "descent": {"coordinate_descent_tuning": True},
    "long_name": {"kernel_name_max_ops": 100},
    "many": {"triton.multi_kernel": 1},
}


def main(name: str) -> None:
    absent_gpu.REGISTERS[0] = 255 if name == "scaled" else 16
    function = globals()[name]
    with FakeTensorMode(), inductor_config.patch(CONFIGS.get(name, {})):
        x, y = torch.empty(64, 64, device="cuda"), torch.empty(64, 64, device="cuda")
        torch.compile(function)(x, y)
    finish(None)


if __name__ == "__main__":
    main(sys.argv[1])
