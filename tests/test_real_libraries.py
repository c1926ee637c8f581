"""TileLang and Helion themselves, where they are installed: what one host writes, the other one takes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.raw import RawBucket
from tritonsync.sync.folders import preset_folder, pull_folder, push_folder

PROGRAMS = Path(__file__).parent / "programs"


def run(program: str, *arguments: str, **variables: str) -> str:
    """Run a program; return the last line that it prints."""
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program), *arguments],
        env={**os.environ, "PYTHONPATH": str(PROGRAMS.parents[1]), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1] if done.stdout else ""


def carry(preset: str, variable: str, tmp_path: Path) -> None:
    """Bring the folder of one host to the other."""
    store = RawBucket(str(tmp_path / "bucket")).store()
    pushed = push_folder(store, preset_folder(preset, {**os.environ, variable: str(tmp_path / "here")}))
    pulled = pull_folder(store, preset_folder(preset, {**os.environ, variable: str(tmp_path / "there")}))
    assert pushed.files == pulled.written > 0


@pytest.mark.skipif(importlib.util.find_spec("helion") is None, reason="Helion is not installed")
def test_helion_finds_a_configuration_of_another_host(tmp_path: Path) -> None:
    """In its folder, and through its remote cache."""
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    run("helion_config.py", "local", "put", HELION_CACHE_DIR=here)
    carry("helion", "HELION_CACHE_DIR", tmp_path)
    assert run("helion_config.py", "local", "get", HELION_CACHE_DIR=there) == "{'num_warps': 4}"
    remote = {
        "HELION_REMOTE_CACHE_BACKEND": "tritonsync.plugins.helion.TritonSyncBackend",
        "TRITONSYNC_URL": str(tmp_path / "remote"),
        "TRITONSYNC_QUIET": "1",
    }
    run("helion_config.py", "remote", "put", HELION_CACHE_DIR=here, **remote)
    assert (
        run("helion_config.py", "remote", "get", HELION_CACHE_DIR=str(tmp_path / "c"), **remote) == "{'num_warps': 4}"
    )
    assert len(list((tmp_path / "c").glob("*.best_config"))) == 1


@pytest.mark.skipif(
    importlib.util.find_spec("tilelang") is None or shutil.which("nvcc") is None, reason="TileLang or nvcc is missing"
)
def test_tilelang_takes_a_kernel_of_another_host(tmp_path: Path) -> None:
    """From its folder, without compiling."""
    variables = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    assert run("tilelang_add.py", TILELANG_CACHE_DIR=str(tmp_path / "here"), **variables) == "compiled"
    carry("tilelang", "TILELANG_CACHE_DIR", tmp_path)
    assert run("tilelang_add.py", TILELANG_CACHE_DIR=str(tmp_path / "there"), **variables) == "from its cache"
