from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run
from tritonsync.watch.metrics import write_metrics


def test_files_of_several_hosts_are_added_up(run: Run, tmp_path: Path) -> None:
    """By workload, and the share of hits over all."""
    for name in ("a.prom", "b.jsonl"):
        for workload in ("train", "serve"):
            write_metrics(str(tmp_path / name), workload, {"hits": 2, "local_hits": 1, "misses": 1})
    ran = run("stats", tmp_path / "a.prom", tmp_path / "b.jsonl", "--json")
    assert ran.code == 0
    assert ran.json["workloads"]["train"] == {"hits": 4, "local_hits": 2, "misses": 2, "processes": 1}
    assert "75% of 16 lookups were hits" in run("stats", tmp_path / "a.prom", tmp_path / "b.jsonl").out


def test_a_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    """One line that names it."""
    ran = run("stats", tmp_path / "none.jsonl")
    assert (ran.code, ran.out) == (1, "")
    assert "none.jsonl" in ran.err
