"""The backend of Helion's remote cache: configurations of one worker serve the next, and nothing it does can fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.folders import HEX, install
from tests.raw import RawBucket
from tritonsync import messages
from tritonsync.format.folder import LIST, FolderFile, bundle_of_folder
from tritonsync.plugins import helion
from tritonsync.plugins.helion import NAME, TritonSyncBackend
from tritonsync.session import session
from tritonsync.settings import Settings

KEY, OTHER = HEX * 4, HEX[::-1] * 4
CONFIG = '{"config": "{\\"num_warps\\": 4}"}'


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host with Helion, and no session left behind."""
    if not _is_installed():
        install("helion", tmp_path / "site", monkeypatch)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(messages, "_said", set())
    helion._host_facts.cache_clear()
    yield
    helion._host_facts.cache_clear()
    session.stop()


def _is_installed() -> bool:
    return TritonSyncBackend.__mro__[1] is not object


@pytest.fixture
def bucket(tmp_path: Path) -> RawBucket:
    return RawBucket(str(tmp_path / "bucket"))


def begin(url: str, folder: Path, **given: str) -> None:
    session.start(Settings(url=url, inductor_dir=str(folder), quiet=True, **given))  # type: ignore[arg-type]


def test_what_one_worker_has_tuned_serves_the_next(bucket: RawBucket, tmp_path: Path) -> None:
    """Under its key, until it is tuned again."""
    for config in (CONFIG, CONFIG.replace("4", "8")):
        begin(bucket.url, tmp_path / "a")
        TritonSyncBackend().put(KEY, config)
        counts = session.stop()
        assert counts is not None
        assert counts.published == 1
        begin(bucket.url, tmp_path / "b")
        assert TritonSyncBackend().get(KEY) == config
        assert TritonSyncBackend().get(OTHER) is None
        counts = session.stop()
        assert counts is not None
        assert (counts.hits, counts.misses) == (1, 1)
    assert bucket.names("workload") == []


def test_another_version_is_a_miss(bucket: RawBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Helion's own key does not hold it."""
    begin(bucket.url, tmp_path / "a")
    TritonSyncBackend().put(KEY, CONFIG)
    session.stop()
    install("helion", tmp_path / "site2", monkeypatch, version="99")
    helion._host_facts.cache_clear()
    begin(bucket.url, tmp_path / "b")
    assert TritonSyncBackend().get(KEY) is None


@pytest.mark.parametrize("text", ["{}", "[]", '{"config": 1}', '{"config": null}'])
def test_what_helion_could_not_read_is_a_miss(text: str, bucket: RawBucket, tmp_path: Path) -> None:
    """It would fail, outside of what it guards."""
    begin(bucket.url, tmp_path / "a")
    bundle = bundle_of_folder(NAME, helion._facts(KEY), [FolderFile(f"{KEY}.best_config", text.encode())])
    bucket.store().publish_newest(bundle, inline=(LIST,))
    assert TritonSyncBackend().get(KEY) is None


def test_without_a_bucket_there_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No session, one that is off, a bucket that cannot be, a key that is none, a host without the library's wheel."""
    backend = TritonSyncBackend()
    backend.put(KEY, CONFIG)
    assert backend.get(KEY) is None
    begin(str(tmp_path / "bucket"), tmp_path / "a", mode="off")
    backend.put(KEY, CONFIG)
    assert backend.get(KEY) is None
    begin("s3://bucket/prefix?nonsense", tmp_path / "a")
    with caplog.at_level(logging.WARNING):
        backend.put(KEY, CONFIG)
        assert backend.get(KEY) is None
        assert backend.get("\n" * 2000) is None
    assert caplog.text


def test_a_job_of_several_ranks_is_not_served(
    bucket: RawBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once."""
    begin(bucket.url, tmp_path / "a")
    TritonSyncBackend().put(KEY, CONFIG)
    session.stop()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    begin(bucket.url, tmp_path / "b")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            TritonSyncBackend().put(OTHER, CONFIG)
            assert TritonSyncBackend().get(KEY) is None
    assert caplog.text.count("must agree") == 1


def test_helion_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable, as an object of its own class."""
    remote_cache = pytest.importorskip("helion.autotuner.remote_cache")
    monkeypatch.setenv("HELION_REMOTE_CACHE_BACKEND", "tritonsync.plugins.helion.TritonSyncBackend")
    assert isinstance(remote_cache._load_remote_backend(), TritonSyncBackend)
