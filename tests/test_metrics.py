"""What a fleet's monitoring gets to see."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import types
from pathlib import Path

import pytest

from tritonsync.errors import LocalCacheError, UnsafeFolderError
from tritonsync.format.bundle import Bundle, Payload
from tritonsync.session.session import Session
from tritonsync.settings import Settings
from tritonsync.watch.metrics import feed_meters, measured, read_metrics, write_metrics

VALUES = measured({"hits": 3, "misses": 1, "waited_s": 0.25, "bytes_down": 1000, "unknown": 9})


def test_names_say_their_units() -> None:
    """What is not meant for export is not exported."""
    assert VALUES == {"hits": 3, "misses": 1, "waited_seconds": 0.25, "bytes_down": 1000}


def test_counters_grow_over_the_processes_of_a_host(tmp_path: Path) -> None:
    """Each adds to what is there, whatever the workload is called; other lines do not get in the way."""
    path = tmp_path / "tritonsync.prom"
    for workload in ("train", 'odd "name"\\', "train"):
        write_metrics(str(path), workload, VALUES)
    text = path.read_text()
    assert "# TYPE tritonsync_hits_total counter" in text
    assert 'tritonsync_hits_total{workload="train"} 6' in text
    assert read_metrics(path)['odd "name"\\']["waited_seconds"] == 0.25
    path.write_text(text + 'other_total 3\ntritonsync_hits_total{workload="x"} many\n')
    write_metrics(str(path), "train", VALUES)
    assert read_metrics(path)["train"]["hits"] == 9


def test_processes_that_end_at_once_lose_nothing(tmp_path: Path) -> None:
    """In both formats."""
    for name in ("all.prom", "all.jsonl"):
        path = str(tmp_path / name)
        threads = [threading.Thread(target=write_metrics, args=(path, "job", VALUES)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert read_metrics(Path(path))["job"]["hits"] == 24


def test_a_line_that_was_cut_off_is_skipped(tmp_path: Path) -> None:
    """The others count."""
    path = tmp_path / "all.jsonl"
    write_metrics(str(path), "job", VALUES)
    path.write_text(path.read_text() + '{"workload":"job","hits":')
    assert read_metrics(path) == {"job": {"processes": 1, **VALUES}}


@pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN", "1" + "0" * 400, '"7"', "[" * 100_000])
def test_a_line_that_cannot_be_added_up_is_skipped(value: str, tmp_path: Path) -> None:
    """The others count, those of the same workload too."""
    path = tmp_path / "all.jsonl"
    write_metrics(str(path), "job", VALUES)
    for workload in ("job", "other"):
        path.write_text(f'{path.read_text()}{{"workload":"{workload}","misses":1,"hits":{value}}}\n')
    assert read_metrics(path) == {"job": {"processes": 1, **VALUES}}


@pytest.mark.parametrize("value", ["+Inf", "NaN", "1e999"])
def test_a_counter_that_somebody_has_made_endless_is_skipped(value: str, tmp_path: Path) -> None:
    """And begins anew with the next process."""
    path = tmp_path / "all.prom"
    write_metrics(str(path), "job", {"hits": 1, "misses": 2})
    path.write_text(path.read_text().replace('_hits_total{workload="job"} 1', f'_hits_total{{workload="job"}} {value}'))
    assert read_metrics(path) == {"job": {"misses": 2}}
    write_metrics(str(path), "job", {"hits": 1})
    assert read_metrics(path) == {"job": {"hits": 1, "misses": 2}}


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """And at the end of a program it is one warning."""
    with pytest.raises(LocalCacheError, match="nowhere"):
        write_metrics(str(tmp_path / "nowhere" / "x.jsonl"), "job", VALUES)


FORMATS = pytest.mark.parametrize("name", ["all.prom", "all.jsonl"])


@FORMATS
def test_a_pipe_does_not_hold_up_the_end_of_a_program(name: str, tmp_path: Path) -> None:
    """Whether somebody reads from it or not."""
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(LocalCacheError, match=name):
        write_metrics(str(path), "job", VALUES)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(LocalCacheError, match="not a regular file"):
            write_metrics(str(path), "job", VALUES)
    finally:
        os.close(reader)


@FORMATS
def test_counters_are_not_added_through_a_link(name: str, tmp_path: Path) -> None:
    """What it leads to may be any file of this user."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "mine")
    with pytest.raises(LocalCacheError, match="is a link"):
        write_metrics(str(tmp_path / name), "job", VALUES)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_lines_are_added_to_a_file_of_somebody_else_only_where_the_folder_is_ours(tmp_path: Path) -> None:
    """He was let in there; into a folder of all, anybody may have put it. A file of our own may lie there."""
    path = tmp_path / "all.jsonl"
    for mode, owner, processes in ((0o775, 12345, 1), (0o1777, 12345, 1), (0o1777, os.geteuid(), 2)):
        path.touch()
        os.chown(path, owner, -1)
        tmp_path.chmod(mode)
        with contextlib.suppress(UnsafeFolderError):
            write_metrics(str(path), "job", VALUES)
        assert read_metrics(path)["job"]["processes"] == processes


def test_totals_are_not_taken_from_a_folder_of_all(tmp_path: Path) -> None:
    """Nor written into it."""
    tmp_path.chmod(0o777)
    with pytest.raises(UnsafeFolderError, match="TRITONSYNC_METRICS"):
        write_metrics(str(tmp_path / "all.prom"), "job", VALUES)
    assert list(tmp_path.iterdir()) == []


def test_totals_without_end_are_not_read(tmp_path: Path) -> None:
    """They would fill the memory, or take minutes, at the end of a program."""
    path = tmp_path / "all.prom"
    with path.open("wb") as file:
        file.truncate((4 << 20) + 1)
    with pytest.raises(LocalCacheError, match="larger than 4194304 bytes"):
        write_metrics(str(path), "job", VALUES)


def test_a_session_leaves_its_counters(tmp_path: Path) -> None:
    """At its end, once; one that did nothing leaves none."""
    path = tmp_path / "fleet.jsonl"
    settings = Settings(
        url=str(tmp_path / "b"), workload="job", quiet=True, metrics=str(path), inductor_dir=str(tmp_path)
    )
    Session(settings).stop()
    assert not path.exists()
    now = Session(settings)
    bundle = Bundle(kind="triton", key="K", payloads=(Payload("p", b"data"),))
    now.enqueue_kernel("K", "default", Path("nowhere"), lambda: bundle, is_compiled=True)
    now.stop()
    now.stop()
    [row] = [json.loads(line) for line in path.read_text().splitlines()]
    assert (row["workload"], row["kernels_compiled"], row["published"]) == ("job", 1, 1)
    assert row["objects_created"] > 0


def test_meters_of_the_program_are_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where it has loaded the API itself."""
    feed_meters("job", VALUES)
    told: list[tuple[str, float, dict[str, str]]] = []

    class Meter:
        def create_counter(self, name: str, unit: str, description: str) -> object:
            assert unit in ("s", "By", "1")
            assert description
            return types.SimpleNamespace(add=lambda value, labels: told.append((name, value, labels)))

    api = types.ModuleType("opentelemetry.metrics")
    api.get_meter = lambda *_: Meter()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", api)
    feed_meters("job", VALUES)
    assert ("tritonsync.waited", 0.25, {"tritonsync.workload": "job"}) in told
    assert len(told) == len(VALUES)
