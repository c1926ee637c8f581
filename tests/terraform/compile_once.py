"""A user's program: compile one function with tritonsync on, and print what PyTorch's caches counted."""

import json
import sys

import torch
from torch._dynamo.utils import counters

import tritonsync


def square(x: torch.Tensor) -> torch.Tensor:
    """Return something worth compiling, for which no C++ compiler is needed."""
    return torch.mm(x, x)


if __name__ == "__main__":
    tritonsync.install()
    torch.compile(square)(torch.ones(8, 8))
    sys.stdout.write(json.dumps({**counters["inductor"], **counters["aot_autograd"]}))
