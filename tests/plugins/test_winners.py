"""What a first worker found out by timing is not timed again."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from tests.plugins.conftest import Worker


def test_nothing_is_left_to_try(worker: Worker, tmp_path: Path) -> None:
    """Of a kernel whose winner is known, the second worker has the winner and nothing else, and compiles none of it."""
    worker = dataclasses.replace(worker, program=Path(__file__).with_name("autotuned.py"))
    bucket, first, second = tmp_path / "bucket", tmp_path / "first", tmp_path / "second"
    folder = str(tmp_path)
    saved = worker.run("save", cache=first, bucket=bucket, AUTOTUNED_FOLDER=folder, TRITONSYNC_STRICT="1")
    assert saved.compiled
    # Where tritonsync brings the results of a graph before it.
    for result in first.glob("??/*.best_config"):
        shutil.copytree(result.parent, second / result.parent.name)
    loaded = worker.run("load", cache=second, bucket=bucket, AUTOTUNED_FOLDER=folder, TRITONSYNC_STRICT="1")
    assert loaded.out == saved.out
    assert loaded.compiled == []
