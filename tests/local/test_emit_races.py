"""Many processes that write into one folder, and processes that are killed while they do."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kernels import CompiledKernels, age, contents, file_of, with_file
from tritonsync.format.kernel import Kernel
from tritonsync.local.triton_cache import collect, emit, sweep

WRITERS = 32
#: Enough folders that the processes get into each other's way even on few cores.
COPIES = sorted(f"{first}{second}".ljust(52, "A") for first in "ABCDE" for second in "ABCDEFGH")

#: A child that emits the same kernels into ever new folders, until it is killed.
ENDLESS = """
import pathlib, sys
from tritonsync.local.triton_cache import collect, emit
source, base = map(pathlib.Path, sys.argv[1:])
kernels = [collect(folder, 0) for folder in sorted(source.iterdir())]
print("ready", flush=True)
for turn in range(10**9):
    for kernel in kernels:
        emit(kernel, base / str(turn))
"""


def _write(kernels: tuple[Kernel, ...], base: Path, start: float) -> list[str]:
    time.sleep(max(0.0, start - time.time()))
    return [emit(kernel, base).outcome for kernel in kernels]


def _write_copies(kernel: Kernel, base: Path, start: float) -> list[str]:
    return _write(tuple(dataclasses.replace(kernel, hash=kernel_hash) for kernel_hash in COPIES), base, start)


def _at_once(write: Callable[..., list[str]], jobs: list[Any], base: Path) -> list[list[str]]:
    # Forked from a server without threads: spawned ones would take seconds to import, and start one after the other.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(len(jobs)) as pool:
        start = time.time() + 0.5
        return pool.starmap(write, [(job, base, start) for job in jobs], chunksize=1)


def test_every_kernel_is_written_once_by_many(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """32 processes at once: each kernel has one winner, the others lose the race or find it there."""
    kernel = compiled_kernels.kernel()
    outcomes = _at_once(_write_copies, [kernel] * WRITERS, tmp_path)
    for index, kernel_hash in enumerate(COPIES):
        tally = Counter(outcome[index] for outcome in outcomes)
        assert tally["emitted"] == 1
        assert tally["emitted"] + tally["lost_race"] + tally["present"] == WRITERS
        assert collect(tmp_path / kernel_hash, 0) == dataclasses.replace(kernel, hash=kernel_hash)
    assert sorted(path.name for path in tmp_path.iterdir()) == COPIES


def test_two_builds_of_one_hash_never_mix(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Whichever comes first stays as it is; the other one is told of the conflict."""
    kernel = compiled_kernels.kernel()
    facts = json.loads(file_of(kernel, ".json").payload)
    other = with_file(kernel, "scale_kernel.json", json.dumps({**facts, "shared": 4096}).encode())
    other = with_file(other, "scale_kernel.cubin", file_of(compiled_kernels.kernel(1), ".cubin").payload)
    outcomes = _at_once(_write, [(kernel, kernel), (other, other)] * 4, tmp_path)
    found = collect(tmp_path / kernel.hash, 0)
    assert found in (kernel, other)
    second_looks = Counter(second for _, second in outcomes)
    assert second_looks == {"present": 4, "conflict": 4}


def test_a_kill_leaves_no_half_kernel(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """After SIGKILL every folder is whole or absent; what is left beside them is swept, and a new start succeeds."""
    kernels = {kernel.hash: kernel for kernel in compiled_kernels.kernels()}
    chance = random.Random(4)
    for attempt in range(6):
        base = tmp_path / str(attempt)
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(compiled_kernels.directory), str(base)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.01, 0.05))
            os.kill(child.pid, signal.SIGKILL)
        turns = list(base.iterdir())
        assert turns
        for turn in turns:
            for folder in turn.iterdir():
                if not folder.name.startswith("tmp."):
                    assert collect(folder, 0) == kernels[folder.name]
            assert {emit(kernel, turn).outcome for kernel in kernels.values()} <= {"emitted", "present"}
            age(turn)
            sweep(turn)
            assert sorted(path.name for path in turn.iterdir()) == sorted(kernels)


def test_many_repair_one_folder(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Processes that find the same old, broken folder at the same time leave it whole."""
    kernel = compiled_kernels.kernel()
    folder = emit(kernel, tmp_path).path
    for damage in (b"", b"\x7fELF"):
        (folder / "__grp__scale_kernel.json").unlink()
        (folder / "scale_kernel.cubin").write_bytes(damage)
        age(tmp_path)
        outcomes = Counter(outcome for (outcome,) in _at_once(_write, [(kernel,)] * 8, tmp_path))
        assert outcomes["repaired"] >= 1
        assert outcomes["conflict"] == 0
        assert collect(folder, 0) == kernel
        assert len(contents(folder)) == len(kernel.files)
        assert [path.name for path in tmp_path.iterdir()] == [kernel.hash]
