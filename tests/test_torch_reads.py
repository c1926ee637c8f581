"""PyTorch decides: a cache that was pushed and pulled is warm for a torch that knows nothing of tritonsync."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.raw import RawBucket
from tritonsync.local.cpu import host_cpu
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import pull
from tritonsync.sync.push import push

PROGRAM = Path(__file__).parent / "programs" / "torch_compile_once.py"


def run_torch(inductor_dir: Path) -> dict[str, Any]:
    """Run the program in a fresh process without tritonsync, and return the counters it prints."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("TRITONSYNC", "TORCH"))}
    environ |= {
        "TORCHINDUCTOR_CACHE_DIR": str(inductor_dir),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        # Spares ten seconds of probing what the CPU can do.
        "TORCHINDUCTOR_VEC_ISA_OK": "1",
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=environ, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    counters: dict[str, Any] = json.loads(done.stdout)
    return counters


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A cache folder that a cold torch has filled, and what it counted."""
    folder = tmp_path_factory.mktemp("first")
    return folder, run_torch(folder)


@pytest.mark.slow
def test_torch_is_warm_in_a_pulled_cache(first: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Forward, backward and two guard variants of one key: all hits, and the same numbers."""
    raw = RawBucket(str(tmp_path / "bucket"))
    folder, cold = first
    second = tmp_path / "second"
    assert cold["aot"][0] == cold["fx"][0] == 0
    push(raw.store(cpu=host_cpu()), LocalCaches.at(folder), folder / "triton", "w")
    pulled = pull(raw.store(cpu=host_cpu()), LocalCaches.at(second), "w")
    assert (pulled.missing, pulled.bundles) == ((), 1 + cold["aot"][1] + cold["fx"][1])
    warm = run_torch(second)
    assert warm == {"aot": [cold["aot"][1], 0], "fx": [cold["fx"][1], 0], "sum": cold["sum"]}


@pytest.mark.slow
def test_values_with_cpu_code_stay_away_from_another_cpu(first: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """What was generated for this CPU is not pulled by a host that has another one."""
    raw = RawBucket(str(tmp_path / "bucket"))
    folder, _ = first
    push(raw.store(cpu=host_cpu()), LocalCaches.at(folder), folder / "triton", "w")
    pulled = pull(raw.store(cpu="riscv64:none"), LocalCaches.at(tmp_path / "second"), "w")
    assert {name.split("/")[0] for name in pulled.missing} == {"fx_graph"}
    assert not (tmp_path / "second" / "fxgraph").exists()
