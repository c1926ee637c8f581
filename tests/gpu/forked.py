"""The zygote of workers on a GPU: `python forked.py SOCKET MODULE...` imports modules, and forks for each worker.

It does what a program does before it builds its model, and no more: neither CUDA is initialised, nor anything compiled
or hashed, nor frozen for the garbage collector.
"""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path

from tests import zygote


def load(modules: list[str]) -> None:
    """Import modules."""
    for name in modules:
        importlib.import_module(name)
    threads = [(each / "comm").read_text().strip() for each in Path("/proc/self/task").iterdir()]
    if len(threads) > 1:
        print(f"the zygote has threads, which its children have not: {', '.join(threads)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    zygote.serve(sys.argv[1], functools.partial(load, sys.argv[2:]))
