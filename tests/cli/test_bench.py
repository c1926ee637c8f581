"""`tritonsync bench`: what it measures in a bucket of the user's, and that it leaves nothing there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.faultproxy import FaultProxy, answer
from tests.raw import RawBucket
from tests.servers import Place, take_engine
from tritonsync.remote.engine import Engine
from tritonsync.sync.speed import KERNELS, Speed, _advice


def test_a_bucket_is_measured_and_left_as_it_was(run: Run, raw: RawBucket) -> None:
    """Requests, a sample published and restored; nothing of it remains, on any kind of bucket."""
    ran = run("bench", "--url", raw.url, "--storage-options", json.dumps(raw.options), "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["kernels"] == KERNELS
    assert 0 < found["latency"] <= found["latency_worst"]
    assert found["publish"] > 0
    assert found["restore"] > 0
    assert 0 < found["bytes_down"] < found["bytes_up"]
    assert found["requests"] == 3
    assert found["create_only"] is (not raw.url.startswith("s3://bucket/"))
    assert found["left"] == 0
    assert 1 <= len(found["advice"]) <= 2
    assert [name for name in raw.names() if name] == []  # rclone shows the folder itself


def test_a_folder_keeps_no_empty_folders(run: Run, tmp_path: Path) -> None:
    """Not even the one that the sample lay in."""
    ran = run("bench", "--url", tmp_path)
    assert ran.code == 0, ran.err
    assert f"{KERNELS} kernels: published in" in ran.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["s3fs", "obstore"])
def test_the_engine_is_named_with_its_reason(
    engine: str, run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a user sees why a bucket is not asked the faster way."""
    take_engine(engine, monkeypatch)
    assert f"{place.url} through {engine} (TRITONSYNC_ENGINE={engine})" in run("bench", "--url", place.url).out


def test_without_the_right_to_delete_it_says_what_was_left(run: Run, place: Place, s3_proxy: FaultProxy) -> None:
    """One refusal is enough; the number of objects and where they lie is said."""
    s3_proxy.fail(answer(403), times=1000, method="DELETE")
    ran = run("bench", "--url", place.url, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["left"] > KERNELS
    assert f"{ran.json['left']} objects below {ran.json['sample']} could not be deleted" in ran.err
    assert "may not delete" in ran.json["advice"][0]
    assert s3_proxy.count("DELETE") == 1


def test_without_the_right_to_write_only_requests_are_measured(run: Run, place: Place, s3_proxy: FaultProxy) -> None:
    """A reader may measure too."""
    s3_proxy.fail(answer(403), times=1000, method="PUT")
    ran = run("bench", "--url", place.url)
    assert ran.code == 0, ran.err
    assert "nothing was published" in ran.out
    assert s3_proxy.count("PUT") == 1
    s3_proxy.clear()
    assert run("bench", "--url", place.url, "--json", TRITONSYNC_MODE="read-only").json["publish"] is None
    assert s3_proxy.count("PUT") == 0


def test_a_failure_on_the_way_leaves_nothing(run: Run, place: Place, s3_proxy: FaultProxy) -> None:
    """What was published before the bucket refused more is deleted."""
    s3_proxy.fail(answer(403), times=1000, method="PUT", path="/kernels/")
    run("bench", "--url", place.url)
    s3_proxy.heal()
    with RawBucket(place.url, place.options) as bucket:
        assert bucket.names() == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, "nothing stands in the way"),
        ({"latency": 0.2}, "keep the bucket in the region"),
        ({"restore": 4.0, "bytes_down": 4_000_000}, "1.0 MB/s came down"),
        ({"create_only": False}, "replaces objects"),
        ({"engine": Engine("s3fs", "obstore is not installed")}, r"pip install 'tritonsync[fast]'"),
        ({"left": 3}, "may not delete"),
    ],
)
def test_advice_names_what_stands_in_the_way(facts: dict[str, object], said: str) -> None:
    """The way, the line, the server, the client, the rights."""
    usual: dict[str, object] = {
        "engine": Engine("obstore", "keys in the environment"),
        "first": 0.1,
        "latency": 0.02,
        "latency_worst": 0.03,
        "restore": 0.1,
        "create_only": True,
    }
    assert said in next(_advice(Speed(**{**usual, **facts})))  # type: ignore[arg-type]
