"""What a fleet's monitoring gets to see."""

from __future__ import annotations

import json
import sys
import threading
import types
from pathlib import Path

import pytest

from tritonsync.errors import LocalCacheError
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
