"""Values with kernels, static autotuners and autotune results, made on an H200."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.plugins.conftest import Worker
from tests.raw import RawBucket

PROGRAM = Path(__file__).with_name("h200.py")


def run(worker: Worker, bucket: Path, cache: Path, *arguments: str) -> tuple[Any, str]:
    done = subprocess.run(
        dataclasses.replace(worker, program=PROGRAM).command(*arguments),
        # Of another workload, so that the reader is brought nothing before it asks.
        env=worker.environ(bucket, cache, TRITONSYNC_STRICT="1", TRITONSYNC_WORKLOAD=arguments[0]),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def tree(folder: Path, *patterns: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
    }


def test_a_whole_model_arrives_in_another_folder(worker: Worker, h200_vit: Path, tmp_path: Path) -> None:
    """Values byte for byte, every kernel, and every autotune result; the kernels of a value come before it."""
    writer = shutil.copytree(h200_vit, tmp_path / "writer")
    results = list(writer.glob("*/*.best_config"))
    bucket = tmp_path / "bucket"
    names, said = run(worker, bucket, writer, "write")
    assert f"{len(list(writer.glob('triton/0/*/*.cubin')))} compiled" in said
    raw = RawBucket(str(bucket))
    assert len(raw.names("^bundles/fx_graph/.*/autotune/.*/manifest.json$")) == 1
    reader = tmp_path / "reader"
    found, said = run(worker, bucket, reader, "read", *names)
    assert found == [1] * len(names)
    values = ("fxgraph/*/*/*", "aotautograd/*/*", "*/*.best_config", "triton/0/*/*.cubin")
    assert tree(reader, *values) == {
        name: data for name, data in tree(writer, *values).items() if not name.startswith("cuda_utils")
    }
    assert len(results) == len(list(reader.glob("*/*.best_config"))) > 0
