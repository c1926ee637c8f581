"""Whatever fails inside tritonsync, the program does not notice."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.plugins.conftest import Filled, Worker


def test_every_function_that_torch_calls_may_fail(worker: Worker, filled: Filled, tmp_path: Path) -> None:
    """Each function of ours is made to raise, in turn; the numbers stay right, and each cause is said."""
    bucket = shutil.copytree(filled.path, tmp_path / "bucket")
    done = worker.run("broken", bucket=bucket)
    assert done.out["wrong"] == []
    assert done.out["unreached"] == []
    for name in (
        "Session.look_up",
        "Session.enqueue_value",
        "Session.newest",
        "Session.enqueue_newest",
        "GraphLookup.more",
    ):
        assert f"{name} is broken" in done.err, done.err


def test_strict_raises(worker: Worker, tmp_path: Path) -> None:
    """TRITONSYNC_STRICT=1 is for those who want to see it."""
    done = worker.run("broken_once", bucket=tmp_path, TRITONSYNC_STRICT="1", code=1)
    assert "Session.look_up is broken" in done.err


def test_autotune_results_of_unreachable_folders(worker: Worker, tmp_path: Path) -> None:
    """A result whose path is the writer's is looked up and saved in this process's own folder."""
    done = worker.run("autotune_elsewhere", cache=tmp_path, bucket=tmp_path / "bucket", TRITONSYNC_STRICT="1")
    assert done.out["read"] == [None, {"XBLOCK": 64}]
    assert done.out["files"] == ["ab/" + "0" * 64 + ".best_config"]
