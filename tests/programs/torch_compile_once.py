# ruff: noqa: T201
"""Compile and run two small functions on the CPU, forward and backward; print torch's own cache counters as JSON."""

from __future__ import annotations

import json

import torch
from torch._dynamo.utils import counters


def block(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x @ x.T).sum(dim=1)


def main() -> None:
    torch.manual_seed(0)
    compiled = torch.compile(block)
    x = torch.randn(16, 16, requires_grad=True)
    compiled(x).sum().backward()
    small, large = torch.randn(8, 4), torch.randn(64, 4)
    for rows in (small, large):
        torch._dynamo.mark_dynamic(rows, 0)
        torch._dynamo.reset()
        torch.compile(lambda t: t * 2 if t.shape[0] <= 32 else t * 3)(rows)
    assert x.grad is not None
    print(
        json.dumps(
            {
                "fx": [counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"]],
                "aot": [
                    counters["aot_autograd"]["autograd_cache_hit"],
                    counters["aot_autograd"]["autograd_cache_miss"],
                ],
                "sum": round(float(x.grad.sum()), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
