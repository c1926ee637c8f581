"""Cache folders of other libraries while a program runs: fetched at its start, published when they are quiet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.folders import contents, install, write
from tests.leftovers import wait_until
from tests.raw import RawBucket
from tritonsync import messages, times
from tritonsync.errors import RemoteError
from tritonsync.local.folder_cache import Place, Snapshot, snapshot
from tritonsync.session import watched
from tritonsync.session.session import Session
from tritonsync.settings import Settings
from tritonsync.sync.folders import preset_folder, pull_folder, push_folder

ONE, TWO = (f"{number:064}.best_config" for number in (1, 2))


@pytest.fixture(autouse=True)
def helion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with Helion; returns its cache folder."""
    install("helion", tmp_path / "site", monkeypatch)
    monkeypatch.setenv("HELION_CACHE_DIR", str(tmp_path / "helion"))
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(messages, "_said", set())
    monkeypatch.setattr(times, "FOLDER_QUIET_S", 0.02)
    monkeypatch.setattr(times, "FOLDER_PAUSE_S", 0.0)
    return tmp_path / "helion"


@pytest.fixture
def bucket(tmp_path: Path) -> RawBucket:
    return RawBucket(str(tmp_path / "bucket"))


Start = Callable[..., Session]


@pytest.fixture
def start(bucket: RawBucket, tmp_path: Path) -> Iterator[Start]:
    """Start sessions, which end with the test."""
    started: list[Session] = []

    def session(*names: str, **settings: str) -> Session:
        given = Settings(url=bucket.url, inductor_dir=str(tmp_path / "inductor"), quiet=True, bundles=names, **settings)  # type: ignore[arg-type]
        started.append(Session(given))
        started[-1].begin()
        return started[-1]

    yield session
    for each in started:
        each.stop()


def published(bucket: RawBucket, folder: Path) -> set[str]:
    """Return what another host would get."""
    pull_folder(bucket.store(), preset_folder("helion", {"HELION_CACHE_DIR": str(folder)}))
    return set(contents(folder))


def test_a_program_starts_with_what_the_last_one_made(
    bucket: RawBucket, helion: Path, start: Start, tmp_path: Path
) -> None:
    """In the background, and counted."""
    there = write(tmp_path / "there", {ONE: b"{}"})
    push_folder(bucket.store(), preset_folder("helion", {"HELION_CACHE_DIR": str(there)}))
    now = start("helion")
    wait_until(lambda: now.counts.hits == 1)
    assert contents(helion) == {ONE: b"{}"}


def test_what_it_makes_is_published_when_the_folder_is_quiet(
    bucket: RawBucket, helion: Path, start: Start, tmp_path: Path
) -> None:
    """While it runs; and what is new since at its end."""
    now = start("helion")
    wait_until(lambda: now.counts.misses == 1)
    write(helion, {ONE: b"{}"})
    wait_until(lambda: now.counts.published == 1)
    assert published(bucket, tmp_path / "a") == {ONE}
    now.folders.end()
    write(helion, {TWO: b"{}"})
    now.stop()
    assert published(bucket, tmp_path / "b") == {ONE, TWO}


def test_what_was_there_before_is_published(bucket: RawBucket, helion: Path, start: Start, tmp_path: Path) -> None:
    """By a program that came with a full folder; of two that share it, one is enough."""
    write(helion, {ONE: b"{}"})
    first, second = start("helion"), start("helion")
    wait_until(lambda: first.counts.misses + first.counts.hits + second.counts.misses + second.counts.hits == 2)
    wait_until(lambda: first.counts.published + second.counts.published >= 1)
    first.stop()
    second.stop()
    assert published(bucket, tmp_path / "a") == {ONE}
    assert len(bucket.names("manifest")) <= 2  # two that begin at the same moment


def test_a_reader_publishes_nothing(bucket: RawBucket, helion: Path, start: Start) -> None:
    """Nor does it watch."""
    write(helion, {ONE: b"{}"})
    now = start("helion", mode="read-only")
    wait_until(lambda: now.counts.misses == 1)
    now.stop()
    assert bucket.names("bundles") == []


def test_a_job_of_several_ranks_is_left_out(
    bucket: RawBucket, helion: Path, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of what all ranks must have, or none: when one has it and another measures, they may wait for each other."""
    write(helion, {ONE: b"{}"})
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with caplog.at_level(logging.WARNING):
        now = start("helion")
        wait_until(lambda: "must agree" in caplog.text)
    now.stop()
    assert (bucket.names("bundles"), now.counts.misses) == ([], 0)


def test_what_cannot_be_had_is_said_and_nothing_more(
    bucket: RawBucket, helion: Path, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that is none, a library that is not here, a folder that others may write: the bucket stays on."""
    write(helion, {ONE: b"{}"})
    (tmp_path / "helion").chmod(0o777)
    with caplog.at_level(logging.WARNING):
        now = start("no-such", "deepgemm", "helion")
        wait_until(lambda: caplog.text.count("is left out") == 3)
    for said in ("'no-such' is no bundle", "deep-gemm, sgl-deep-gemm is installed", "everybody may write"):
        assert said in caplog.text
    assert not now.is_off


def test_a_miss_names_what_differs(
    bucket: RawBucket, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a fleet that starts cold after an upgrade can be understood."""
    there = write(tmp_path / "there", {ONE: b"{}"})
    push_folder(bucket.store(), preset_folder("helion", {"HELION_CACHE_DIR": str(there)}))
    install("helion", tmp_path / "site2", monkeypatch, version="2.2")
    with caplog.at_level(logging.WARNING):
        now = start("helion")
        wait_until(lambda: now.counts.misses == 1 and "nearest" in caplog.text)
    assert "nothing for this host; nearest: helion 2.1 (wheel" in caplog.text


def test_a_file_that_grows_is_published_later(
    bucket: RawBucket, helion: Path, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """JSON that is cut short stays here until it is whole."""
    now = start("helion")
    wait_until(lambda: now.counts.misses == 1)
    write(helion, {ONE: b'{"half', TWO: b"{}"})
    wait_until(lambda: now.counts.published == 1)
    assert published(bucket, tmp_path / "a") == {TWO}
    write(helion, {ONE: b'{"half": 1}'})
    wait_until(lambda: now.counts.published == 2)
    assert published(bucket, tmp_path / "b") == {ONE, TWO}


def test_a_bucket_that_was_away_is_tried_again_at_the_end(
    bucket: RawBucket, helion: Path, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at every look: the folder is quiet, and so is the program."""
    tries: list[int] = []
    real, look = push_folder, snapshot

    def fail(*args: Any, **kwargs: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise RemoteError("away")
        return real(*args, **kwargs)

    monkeypatch.setattr(watched, "push_folder", fail)
    looks: list[int] = []

    def count(place: Place) -> Snapshot:
        looks.append(1)
        return look(place)

    monkeypatch.setattr(watched, "snapshot", count)
    now = start("helion")
    wait_until(lambda: now.counts.misses == 1)
    write(helion, {ONE: b"{}"})
    wait_until(lambda: len(tries) == 1)
    before = len(looks)
    wait_until(lambda: len(looks) > before + 3)
    assert (len(tries), now.counts.published) == (1, 0)
    now.stop()
    assert published(bucket, tmp_path / "a") == {ONE}
