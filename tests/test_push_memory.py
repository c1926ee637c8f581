"""A push needs as much memory as its largest bundle, not as the whole cache."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

MEGABYTE = 1024 * 1024

PROGRAM = """
import resource, sys
from tritonsync.cli import main
try:
    main()
finally:
    # VmHWM: what a child inherits of its parent's peak in `ru_maxrss` is not its own.
    print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0], file=sys.stderr)
"""


def make_kernels(folder: Path, count: int, size: int) -> None:
    """Write kernel folders whose files cannot be compressed."""
    rng = random.Random(1)
    for number in range(count):
        name = base64.b32encode(rng.randbytes(33)).decode()[:52]
        kernel = folder / name
        kernel.mkdir(parents=True)
        contents = {f"k{number}.ptx": rng.randbytes(size), f"k{number}.json": json.dumps({"hash": name}).encode()}
        for file, data in contents.items():
            (kernel / file).write_bytes(data)
        group = {"child_paths": {file: str(kernel / file) for file in contents}}
        (kernel / f"__grp__k{number}.json").write_text(json.dumps(group))


def peak_of_push(cache: Path, bucket: Path) -> int:
    """Return the most bytes that a push had in memory."""
    (bucket / "none").mkdir(parents=True, exist_ok=True)
    command = ["push", "--workload", "w", "--url", bucket, "--triton-dir", cache, "--inductor-dir", bucket / "none"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, command)], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-2]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("count", "size"), [(150, 800_000), pytest.param(2000, 130_000, marks=pytest.mark.slow)], ids=["large", "many"]
)
def test_the_memory_of_a_push_is_bounded(count: int, size: int, tmp_path: Path) -> None:
    """Kernels of no graph are packed some at a time, and let go when they are sent; a second push reads them again."""
    make_kernels(tmp_path / "cache", count, size)
    assert peak_of_push(tmp_path / "cache", tmp_path / "bucket") < 200 * MEGABYTE
    assert peak_of_push(tmp_path / "cache", tmp_path / "bucket") < 200 * MEGABYTE
