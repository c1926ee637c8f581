"""A user's program: compile one function with tritonsync on, and print what PyTorch's caches counted."""

import json
import sys

import torch
from torch._dynamo.utils import counters

import tritonsync


def double(x: torch.Tensor) -> torch.Tensor:
    """Return something worth compiling."""
    return torch.sin(x) * 2 + 1


if __name__ == "__main__":
    tritonsync.install()
    torch.compile(double)(torch.ones(64))
    sys.stdout.write(json.dumps({**counters["inductor"], **counters["aot_autograd"]}))
