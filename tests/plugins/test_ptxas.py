"""A kernel has one hash, whichever process compiles it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import triton
import triton.backends.nvidia

from tests.plugins.conftest import Worker


@pytest.fixture
def torch_file(tmp_path: Path) -> Path:
    """A file of a torch that brings a ptxas of another version than Triton's, where 2.11 to 2.15 look for it."""
    own = Path(triton.backends.nvidia.__path__[0]) / "bin" / "ptxas"
    script = f"""#!/bin/sh
        if [ "$1" = --version ]; then echo "Cuda compilation tools, release 12.7, V12.7.1"; else exec {own} "$@"; fi
    """
    for folder in (tmp_path / "bin", tmp_path / "_inductor" / "bin"):
        folder.mkdir(parents=True)
        (folder / "ptxas").write_text(script)
        (folder / "ptxas").chmod(0o755)
    return tmp_path / "_inductor" / "runtime" / "compile_tasks.py"


def test_the_program_and_its_compile_workers_name_a_kernel_alike(
    fresh_worker: Worker, torch_file: Path, tmp_path: Path
) -> None:
    """Also where the program asks for the version of ptxas before torch chooses its own."""

    def compile_as(where: str, bucket: Path | None) -> str:
        cache = tmp_path / f"{where}-{bucket is None}"
        done = subprocess.run(
            fresh_worker.command("ptxas", where, torch_file),
            env=fresh_worker.environ(bucket, cache, TRITON_CACHE_DIR=str(cache), TRITONSYNC_STRICT="1"),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    in_worker = compile_as("worker", tmp_path / "bucket")
    assert compile_as("program", tmp_path / "bucket") == in_worker
    if triton.__version__ == "3.6.0":  # 3.9 takes a newer ptxas of its own for this target, whatever torch chooses
        assert compile_as("program", None) != in_worker
