"""The whole life of a bundle, torch's own and ours, told the same in one compile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.plugins.conftest import ROOT, Worker


def test_the_whole_life_of_a_bundle_is_that_of_the_original(worker: Worker, tmp_path: Path) -> None:
    """Begin, put, collect, read and emit, static autotuners in torch's table: same inputs, same outcome."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("bundler_life.py")), str(tmp_path / "caches")],
        env=worker.environ(None, tmp_path / "cache"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    collected, theirs, ours = told["collected"], told["theirs"], told["ours"]
    assert told["compiled"] == len(collected["theirs"]) > 1
    assert collected["ours"] == collected["theirs"]
    assert collected["devices"] == [0]
    assert collected["names"][0] == collected["names"][1]
    assert collected["static"][0] == collected["static"][1]
    assert len(theirs["table"]) == theirs["loaded"] == len(theirs["static"]) == 1
    assert ours == theirs
    # Nothing was compiled again, and torch asked its table.
    assert told["again"] == [0, 1]
    outcomes, loaded = told["busy"]
    assert (outcomes["busy"], loaded) == (1, {})
    assert told["gone"] == [[], ours["static"], {}]
