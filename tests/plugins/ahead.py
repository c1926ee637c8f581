# ruff: noqa: T201
"""A program whose functions are put in place when `torch.compile` is called: `python ahead.py <folder> <part>...`.

The last line printed is one JSON object: for each part its numbers and those of eager mode, how many results were in
place before the first call, and how many frames that call has traced.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

SUBJECT = """
import torch

def helper(x):
    return x @ x + 1

def other(x):
    return x @ x + 2

def function(x):
    return helper(x) * 2

@torch.compile
def decorated(x):
    return helper(x) * 3

eager = decorated._torchdynamo_orig_callable
"""


@contextlib.contextmanager
def newer_precision() -> Iterator[None]:
    """Choose float32 precision by torch's newer switch, after which the older ones cannot be read."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


#: What a program switches on between `torch.compile` and its first call.
STATES: dict[str, Callable[[], Any]] = {
    "autocast": functools.partial(torch.autocast, "cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "precision": newer_precision,
}


def outcome(before: int, compiled: Callable[..., Any], eager: Callable[..., Any]) -> dict[str, Any]:
    from torch._dynamo.utils import counters

    counters.clear()
    x = torch.arange(16.0).reshape(4, 4) / 7
    found = compiled(x)
    traced = int(counters["frames"]["total"])
    return {
        "before": before,
        "traced": traced,
        "numbers": found.flatten().tolist(),
        "eager": eager(x).flatten().tolist(),
    }


def in_place(function: Any) -> int:
    from torch._C._dynamo.eval_frame import _debug_get_precompile_entries

    return len(_debug_get_precompile_entries(function.__code__))


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    subject: Any = importlib.import_module("subject")
    outcomes = {}
    for part in sys.argv[2:]:
        if part == "decorated":
            with torch.no_grad():
                outcomes[part] = outcome(in_place(subject.eager), subject.decorated, subject.eager)
            continue
        torch._dynamo.reset()
        compiled = torch.compile(subject.function)
        before = in_place(subject.function)
        if part == "forgotten":
            torch._dynamo.reset()
        if part == "patched":
            subject.helper = subject.other
        inside = STATES.get(part, contextlib.nullcontext)
        with torch.set_grad_enabled(part == "grad"), inside():
            outcomes[part] = outcome(before, compiled, subject.function)
    print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    main()
