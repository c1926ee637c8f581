"""What Dynamo made of functions, between sessions: newest first, and ahead of being asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.raw import RawBucket
from tritonsync.local.inductor_cache import value_path
from tritonsync.session.session import Session
from tritonsync.settings import Settings
from tritonsync.watch.run import _summary

KEY = "ab" * 32


def session(bucket: Path | str, folder: Path, **settings: Any) -> Session:
    return Session(Settings(url=str(bucket), inductor_dir=str(folder), workload="name", quiet=True, **settings))


def publish(bucket: Path, folder: Path, *contents: bytes) -> None:
    """Publish contents of one function, one run after the other."""
    for content in contents:
        now = session(bucket, folder)
        now.enqueue_precompiled(KEY, lambda content=content: content)  # type: ignore[misc]
        now.stop()


def test_the_newest_serves(tmp_path: Path) -> None:
    """Whoever published last is read, whatever came before."""
    publish(tmp_path / "bucket", tmp_path / "writer", b"one", b"two", b"three")
    assert list(session(tmp_path / "bucket", tmp_path / "reader").precompiled(KEY)) == [b"three"]
    assert len(RawBucket(str(tmp_path / "bucket")).names(f"^bundles/dynamo/{KEY}/.*manifest.json$")) == 3


def test_equal_content_is_published_once(tmp_path: Path) -> None:
    """A run that makes what is there already leaves no second copy."""
    publish(tmp_path / "bucket", tmp_path / "writer", b"one", b"one")
    assert len(RawBucket(str(tmp_path / "bucket")).names(f"^bundles/dynamo/{KEY}/.*manifest.json$")) == 1


def test_what_this_host_has_comes_first(tmp_path: Path) -> None:
    """The bucket is asked only by who does not take what lies here."""
    publish(tmp_path / "bucket", tmp_path / "writer", b"theirs")
    here = value_path(tmp_path / "reader", "dynamo", KEY, "")
    here.parent.mkdir(parents=True)
    here.write_bytes(b"ours")
    now = session(tmp_path / "bucket", tmp_path / "reader")
    offers = now.precompiled(KEY)
    assert next(offers) == b"ours"
    assert now.stats.requests == 0
    assert next(offers) == b"theirs"
    assert list(offers) == []


def test_what_is_used_is_kept_on_this_host(tmp_path: Path) -> None:
    """The next process of this host needs no bucket for it."""
    now = session(tmp_path / "bucket", tmp_path / "reader")
    now.note_precompiled(KEY, b"content")
    assert value_path(tmp_path / "reader", "dynamo", KEY, "").read_bytes() == b"content"
    assert now.counts.hits == 1


def test_the_last_run_is_fetched_ahead(tmp_path: Path) -> None:
    """What the workload lists is fetched as soon as there is a connection, and a lookup joins that."""
    publish(tmp_path / "bucket", tmp_path / "writer", b"content")
    now = session(tmp_path / "bucket", tmp_path / "reader")
    now.begin()
    now._connection.store(10)
    while KEY not in now._precompiled._fetches:
        now._has_ended.wait(0.01)
    fetch = now._precompiled._fetches[KEY]
    assert [value.data for value in fetch.run_or_wait(10).values] == [b"content"]
    before = now.stats.requests
    assert list(now.precompiled(KEY)) == [b"content"]
    assert now.stats.requests == before


@pytest.mark.parametrize("made", [None, OSError("no disk")])
def test_nothing_is_published_that_was_not_made(tmp_path: Path, made: OSError | None) -> None:
    """A function that is left out in the end, and one that fails, leave the bucket as it was."""

    def make() -> bytes | None:
        if made is not None:
            raise made
        return None

    now = session(tmp_path / "bucket", tmp_path / "writer")
    now.enqueue_precompiled(KEY, make)
    now.stop()
    assert RawBucket(str(tmp_path / "bucket")).names("dynamo") == []


def test_a_bucket_that_cannot_be_had_is_a_miss(tmp_path: Path) -> None:
    """No trouble of the bucket reaches the program."""
    (tmp_path / "file").write_text("")
    now = session(f"{tmp_path}/file/bucket", tmp_path / "reader")
    assert list(now.precompiled(KEY)) == []


def test_the_report_tells_restored_from_used() -> None:
    """A result that was restored and then used is no news; one that was not used stands out."""
    told = [("a", "restored"), ("a", "used"), ("b", "restored"), ("c", "left out")]
    events = [{"event": "precompile", "name": name, "outcome": what, "reason": ""} for name, what in told]
    found = [(each["name"], each["outcome"]) for each in _summary(0, [events]).precompiled]
    assert found == [("a", "used"), ("b", "restored and not used"), ("c", "left out")]
