"""Without trusted keys, a program says at its start who can run code in it; once a job, and never where nobody can."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tritonsync.session import session
from tritonsync.settings import Settings
from tritonsync.store.trust import notice_of_trust

URL = "s3://bucket/prefix"


@pytest.fixture(autouse=True)
def no_session() -> Iterator[None]:
    session.stop()
    yield
    session.stop()


@pytest.mark.parametrize("url", [URL, "gs://bucket/p", "memory://p"])
def test_it_says_who_can_do_what_and_names_the_variable(url: str) -> None:
    """And what to do about it."""
    notice = notice_of_trust(Settings(url=url))
    assert notice is not None
    for part in ("write to the bucket", "run code", "TRITONSYNC_TRUSTED_KEYS", "keygen"):
        assert part in notice
    assert len(notice.splitlines()) == 1


def test_nothing_is_said_where_keys_are_trusted_or_there_is_no_bucket() -> None:
    """Nor of a URL that is wrong, which is said elsewhere."""
    for settings in (Settings(url=URL, trusted_keys=("/k.pem",)), Settings(), Settings(url="nosuch://b")):
        assert notice_of_trust(settings) is None


def test_a_folder_of_this_user_alone_needs_no_word(tmp_path: Path) -> None:
    """One that others may write into does."""
    bucket = tmp_path / "bucket"
    assert notice_of_trust(Settings(url=str(bucket))) is None
    bucket.mkdir(mode=0o755)
    assert notice_of_trust(Settings(url=str(bucket))) is None
    for mode in (0o775, 0o777, 0o1777):
        bucket.chmod(mode)
        assert "run code" in (notice_of_trust(Settings(url=str(bucket))) or "")


def test_a_program_says_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    """However often its plugins start the session."""
    for _ in range(3):
        assert session.start(Settings(url=URL)) is not None
    assert [line.count("run code") for line in capsys.readouterr().err.splitlines()] == [1]


@pytest.mark.parametrize("settings", [Settings(url=URL, quiet=True), Settings(url=URL, rank=1)])
def test_quiet_programs_and_later_ranks_say_nothing(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """The first rank of a job has said it."""
    session.start(settings)
    assert capsys.readouterr().err == ""


def test_compile_workers_and_forked_children_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """The program that they belong to has said it."""
    session.start(Settings(url=URL), is_helper=True)
    session.stop()
    assert capfd.readouterr().err == ""
    session.start(Settings(url=URL))
    assert "run code" in capfd.readouterr().err
    child = os.fork()
    if child == 0:
        os._exit(0 if session.current() is not None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert capfd.readouterr().err == ""
