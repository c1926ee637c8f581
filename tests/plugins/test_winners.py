"""What a first worker found out by timing is not timed again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.plugins.autotuned import CASES
from tests.plugins.conftest import Worker


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_to_try(worker: Worker, tmp_path: Path, case: str) -> None:
    """Of a kernel whose winner is known, the second worker has the winner and nothing else, and compiles none of it."""
    worker = dataclasses.replace(worker, program=Path(__file__).with_name("autotuned.py"))
    bucket, first, second = tmp_path / "bucket", tmp_path / "first", tmp_path / "second"
    folder = str(tmp_path)
    assert worker.run("save", case, cache=first, bucket=bucket, AUTOTUNED_FOLDER=folder, TRITONSYNC_STRICT="1").compiled
    # Where tritonsync brings the results of a graph before it.
    for result in first.glob("??/*.best_config"):
        shutil.copytree(result.parent, second / result.parent.name)
    done = worker.run("load", case, cache=second, bucket=bucket, AUTOTUNED_FOLDER=folder, TRITONSYNC_STRICT="1")
    winner = json.loads((tmp_path / "winner.json").read_text())
    assert done.out == {"choices": [winner], "tuned": True}
    assert done.compiled == []
