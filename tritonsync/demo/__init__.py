"""`tritonsync demo`: real kernels through a real bucket and back, without a GPU.

It compiles, pushes, pulls to another path, and lets Triton say where it took the kernels from. `kernels.py` is the
script that Triton compiles, in a child process, as a program of a user would; it lies in a folder of its own because
Python puts that folder first on the child's import path. The demo may not take a way that a user has not: what it calls
is what `push` and `pull` call.

Imports: errors, format, store, sync.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tritonsync.errors import MissingExtraError, TritonSyncError
from tritonsync.format.manifest import Environment
from tritonsync.store import Store
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.environment import environment_of_folder
from tritonsync.sync.pull import pull
from tritonsync.sync.push import push

__all__ = ["MAX_KERNELS", "WORKLOAD", "Demo", "demo"]

#: Different kernels that the script can make.
MAX_KERNELS = 192
WORKLOAD = "tritonsync-demo"

_SCRIPT = Path(__file__).with_name("kernels.py")


@dataclasses.dataclass(frozen=True)
class Demo:
    """What came of it.

    Attributes:
        triton: the version of Triton.
        compiled: kernels that Triton compiled into the first cache.
        pushed_kernels: of these, how many are in the bucket.
        pushed_bytes: uploaded; 0 where the bucket had all of it.
        pulled_kernels: kernels written into the second cache.
        hits: kernels that Triton took from the second cache.
        recompiled: kernels that it did not.
        seconds: by step; `compile` and `check` are Triton's own work, without the start of Python.
    """

    triton: str
    compiled: int
    pushed_kernels: int
    pushed_bytes: int
    pulled_kernels: int
    hits: int
    recompiled: int
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether every kernel came from the cache."""
        return self.recompiled == 0 and self.hits == self.compiled == self.pulled_kernels


def demo(
    open_store: Callable[[Environment], Store],
    folder: Path,
    *,
    kernels: int,
    report: Callable[[str, str, float], None],
) -> Demo:
    """Run it.

    Args:
        open_store: opens the bucket, for bundles made in this environment.
        folder: an empty folder for both caches.
        kernels: how many.
        report: called after each step with its name, what it did, and seconds.

    Raises:
        MissingExtraError: Triton is not installed.
        TritonSyncError: Triton failed, or the bucket did.
    """
    first, second = LocalCaches.at(folder / "first", folder / "first-triton"), folder / "second-triton"
    other = LocalCaches.at(folder / "second", second)
    seconds: dict[str, float] = {}
    _ask_for_triton()
    made = _compile(first.plain_kernels(None), kernels)
    compiled = _misses(made)
    seconds["compile"] = made["seconds"]
    report("compile", f"{compiled} kernels for sm_90 with Triton {made['triton']}, no GPU needed", made["seconds"])
    with _timed(seconds, "push"):
        store = open_store(environment_of_folder(first.plain_kernels(None)))
        store.bucket.probe()
        pushed = push(store, first, first.plain_kernels(None), WORKLOAD)
    report(
        "push", f"{pushed.kernels} kernels, {_megabytes(pushed.bytes_uploaded)} to {store.bucket.url}", seconds["push"]
    )
    # What Triton finds from here on, it finds in the second cache: also if a file still named a path in the first.
    shutil.rmtree(first.plain_kernels(None))
    with _timed(seconds, "pull"):
        pulled = pull(store, other, WORKLOAD)
    what = (
        f"{pulled.kernels_emitted} kernels, {_megabytes(pulled.bytes_downloaded)} into an empty cache at another path"
    )
    report("pull", what, seconds["pull"])
    checked = _compile(second, kernels)
    recompiled = _misses(checked)
    hits = len(checked["kernels"]) - recompiled
    seconds["check"] = checked["seconds"]
    report(
        "check", f"Triton took {hits} of {compiled} kernels from that cache and compiled {recompiled}", seconds["check"]
    )
    return Demo(
        triton=made["triton"],
        compiled=compiled,
        pushed_kernels=pushed.kernels,
        pushed_bytes=pushed.bytes_uploaded,
        pulled_kernels=pulled.kernels_emitted,
        hits=hits,
        recompiled=recompiled,
        seconds={step: round(spent, 3) for step, spent in seconds.items()},
    )


def _ask_for_triton() -> None:
    try:
        found = importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise MissingExtraError("the demo compiles with Triton, which is not installed: pip install 'tritonsync[demo]'")


def _compile(cache_dir: Path, kernels: int) -> dict[str, Any]:
    """Run the script and return what it printed."""
    command = [sys.executable, str(_SCRIPT), str(cache_dir), str(kernels)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - nothing foreign in it
    if ran.returncode != 0:
        said = ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"]
        raise TritonSyncError(f"Triton could not compile the kernels of the demo: {said[-1]}")
    made: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return made


def _misses(made: Mapping[str, Any]) -> int:
    return sum(not kernel["hit"] for kernel in made["kernels"])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


@contextlib.contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - started
