"""A program that fetched the graphs of its last run, and then compiled, is told why in one line."""

from __future__ import annotations

from tests.plugins.conftest import Done, Filled, Worker

SAID = "graphs that were fetched ahead were not used"


def lines(done: Done) -> list[str]:
    return [line for line in done.err.splitlines() if SAID in line]


def test_nothing_is_said_of_what_was_used(worker: Worker, filled: Filled) -> None:
    """Nor of a first run, which had nothing to fetch."""
    again = worker.run("train", bucket=filled.path, TRITONSYNC_MODE="read-only")
    assert again.compiled == []
    assert lines(again) == lines(filled.first) == []


def test_the_program_has_switched_the_caches_off(worker: Worker, filled: Filled) -> None:
    done = worker.run("uncached", bucket=filled.path, TRITONSYNC_MODE="read-only")
    assert done.compiled
    (line,) = lines(done)
    assert line.endswith(
        "3 of 3 " + SAID + ", and torch compiled: its caches are off, by torch._inductor.config.fx_graph_cache"
    )


def test_torch_asks_for_other_keys(worker: Worker, filled: Filled) -> None:
    """The name of the workload is the same, and what it runs is not."""
    done = worker.run("rows", 50, bucket=filled.path, TRITONSYNC_MODE="read-only")
    assert done.compiled
    (line,) = lines(done)
    assert "it asked for other keys" in line


def test_the_caches_are_off_for_the_whole_program(fresh_worker: Worker, filled: Filled) -> None:
    """Then nothing is fetched either, and that is said at the start."""
    done = fresh_worker.run("import_only", bucket=filled.path, TORCHINDUCTOR_FORCE_DISABLE_CACHES="1")
    (line,) = (line for line in done.err.splitlines() if "tritonsync" in line)
    assert line.endswith("stays off: TORCHINDUCTOR_FORCE_DISABLE_CACHES turns torch's caches off")
