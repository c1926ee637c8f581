# ruff: noqa: T201
"""A program under precompile: `python precompiled.py <folder of subjects> <what>...`, each name a part of it.

`subjects` compiles and calls the `target` of every module `subject_*.py` of the folder; `states` calls one of them in
other states of torch; `children` does it in children. The last line printed is one JSON object: for each call its
numbers, those of eager mode, and how many frames Dynamo has traced for it.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Outcome = dict[str, Any]


def square(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(16, dtype=dtype).reshape(4, 4) / 7


def measured(compiled: Callable[..., Any], eager: Callable[..., Any], *arguments: Any) -> Outcome:
    from torch._dynamo.utils import counters

    counters.clear()
    found = compiled(*arguments)
    traced = int(counters["frames"]["total"])
    return {"numbers": numbers(found), "eager": numbers(eager(*arguments)), "traced": traced}


def numbers(found: Any) -> list[Any]:
    return [str(found.dtype), *found.detach().double().flatten().tolist()]


def subjects(folder: Path) -> Outcome:
    """Each subject, on its own arguments."""
    outcomes: Outcome = {}
    for path in sorted(folder.glob("subject_*.py")):
        subject = importlib.import_module(path.stem)
        arguments = getattr(subject, "arguments", lambda: [[square()]])()
        run = getattr(subject, "run", lambda function, *given: function(*given))
        ways = [functools.partial(run, function) for function in (torch.compile(subject.target), subject.target)]
        outcomes[path.stem] = [measured(*ways, *each) for each in arguments]
    return outcomes


def states(folder: Path) -> Outcome:
    """One subject in states that the one before was not made for: first as it is loaded, then compiled anew."""
    from tritonsync.plugins import precompile_key

    target = importlib.import_module("subject_source").target
    outcomes: Outcome = {}

    def anew() -> Callable[..., Any]:
        torch._dynamo.reset()
        compiled: Callable[..., Any] = torch.compile(target)
        return compiled

    def both(name: str, *arguments: Any) -> None:
        outcomes[f"{name}, loaded"] = measured(loaded, target, *arguments)
        outcomes[f"{name}, anew"] = measured(anew(), target, *arguments)

    loaded = anew()
    outcomes["as it was"] = measured(loaded, target, square())
    outcomes["dtype, loaded"] = measured(loaded, target, square(torch.float64))
    for name, state in (
        ("autocast", torch.autocast("cpu", torch.bfloat16)),
        ("no grad", torch.no_grad()),
        ("inference", torch.inference_mode()),
        ("device", torch.device("cpu")),
    ):
        loaded = anew()
        assert loaded(square()) is not None
        with state:
            both(name, square())
    loaded = anew()
    assert loaded(square()) is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    both("threads", square())
    torch.set_num_threads(threads)

    truth = precompile_key.environment
    precompile_key.environment = lambda now: ["torch 9.9", *truth(now)[1:]]
    outcomes["torch, anew"] = measured(anew(), target, square())
    precompile_key.environment = truth
    with torch._dynamo.config.patch(assume_static_by_default=False):
        outcomes["configuration, anew"] = measured(anew(), target, square())
    outcomes["rank, anew"] = as_rank_of_two(lambda: measured(anew(), target, square()))
    outcomes["as it was, again"] = measured(anew(), target, square())
    # What was compared when it was loaded may change afterwards.
    subject: Any = importlib.import_module("subject_function")
    torch._dynamo.reset()
    loaded = torch.compile(subject.target)
    outcomes["before it is replaced"] = measured(loaded, subject.target, square())
    subject.function = importlib.import_module("others").third
    outcomes["function, replaced"] = measured(loaded, subject.target, square())

    # From here on the function is compiled in two ways, and neither is served with the other's result.
    loaded = anew()
    outcomes["one way"] = measured(loaded, target, square())
    outcomes["backend, the other"] = measured(torch.compile(target, backend="eager"), target, square())
    outcomes["backend, the first again"] = measured(loaded, target, square())
    return outcomes


def as_rank_of_two(call: Callable[[], Outcome]) -> Outcome:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    try:
        return call()
    finally:
        torch.distributed.destroy_process_group()


def in_child(queue: Any) -> None:
    product = importlib.import_module("in_children").product
    queue.put(measured(torch.compile(product), product, square()))


def children(_folder: Path) -> Outcome:
    """A function that only children compile."""
    outcomes: Outcome = {}
    for method in ("fork", "spawn"):
        context: Any = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=in_child, args=(queue,))
        child.start()
        outcomes[method] = queue.get(timeout=100)
        child.join(100)
        assert child.exitcode == 0
    return outcomes


def main() -> None:
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(folder))
    parts = {"children": children, "subjects": subjects, "states": states}
    print(json.dumps({name: parts[name](folder) for name in sys.argv[2:]}), flush=True)


if __name__ == "__main__":
    main()
