"""A cache folder that others may write into: refused by push, pull and programs, with one line each."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.raw import RawBucket
from tritonsync.cli.app import app
from tritonsync.format.bundle import Bundle, Payload
from tritonsync.local.inductor_cache import write_value
from tritonsync.session.session import Session
from tritonsync.settings import Settings
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.push import push


def open_to_all(folder: Path) -> None:
    folder.chmod(0o777)


def give_away(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(folder, 12345, 12345)


@pytest.fixture(params=[open_to_all, give_away], ids=["open to all", "another user's"])
def spoil(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Make a folder unsafe."""
    found: Callable[[Path], None] = request.param
    return found


@pytest.fixture
def cache(h200_vit: Path, tmp_path: Path) -> Path:
    """A copy of a real cache."""
    return Path(shutil.copytree(h200_vit, tmp_path / "cache"))


@pytest.mark.parametrize("part", [".", "triton"])
def test_push_refuses_it(spoil: Callable[[Path], None], part: str, cache: Path, tmp_path: Path) -> None:
    """Nothing of it is published, much less signed: the bucket is not even made."""
    spoil(cache / part)
    arguments = ["push", "--url", str(tmp_path / "bucket"), "--workload", "vit", "--inductor-dir", str(cache)]
    ran = CliRunner().invoke(app, arguments)
    assert (ran.exit_code, ran.stdout) == (1, "")
    [line] = ran.stderr.splitlines()
    assert str(cache / part) in line
    assert "chown" in line
    assert not (tmp_path / "bucket").exists()


def test_pull_refuses_it(spoil: Callable[[Path], None], cache: Path, tmp_path: Path) -> None:
    """Nothing is written into it."""
    with RawBucket(str(tmp_path / "bucket")) as raw:
        push(raw.store(), LocalCaches.at(cache), cache / "triton", "vit")
    target = tmp_path / "target"
    target.mkdir()
    spoil(target)
    arguments = ["pull", "--url", str(tmp_path / "bucket"), "--workload", "vit", "--inductor-dir", str(target)]
    ran = CliRunner().invoke(app, arguments)
    assert (ran.exit_code, ran.stdout) == (1, "")
    [line] = ran.stderr.splitlines()
    assert str(target) in line
    assert list(target.iterdir()) == []


def test_a_program_leaves_it_alone(
    spoil: Callable[[Path], None], cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so once, turns the bucket off, and goes on: nothing is fetched into it, nothing of it published."""
    with RawBucket(str(tmp_path / "bucket")) as raw:
        push(raw.store(), LocalCaches.at(cache), cache / "triton", "vit")
        before = raw.names()
        [graph] = cache.glob("fxgraph/*/*/*")
        target = tmp_path / "target"
        target.mkdir()
        spoil(target)
        settings = Settings(
            url=str(tmp_path / "bucket"), inductor_dir=str(target), triton_dir=str(target / "triton"), workload="name"
        )
        now = Session(settings)
        with caplog.at_level(logging.WARNING, "tritonsync"):
            for _ in range(3):
                assert now.look_up("fx_graph", graph.parent.name).more() == ()
            now.enqueue_value("fx_graph", graph.parent.name, graph.read_bytes())
            now.enqueue_kernel(
                "K", "default", target, lambda: Bundle("triton", "K", payloads=(Payload("p", b"d"),)), is_compiled=True
            )
            now.stop()
        assert now.is_off
        assert [str(target) in record.getMessage() for record in caplog.records] == [True]
        assert list(target.iterdir()) == []
        assert raw.names() == before


def test_what_lies_there_of_a_function_is_not_unpickled(
    spoil: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither when it is asked for nor ahead of that; nothing is here, which is said once."""
    key = "ab" * 32
    write_value(tmp_path / "cache", "dynamo", key, b"somebody's pickle")
    now = Session(Settings(url=str(tmp_path / "bucket"), inductor_dir=str(tmp_path / "cache"), workload="name"))
    assert now.precompiled_at_hand(key[:16]) == (key, b"somebody's pickle")
    spoil(tmp_path / "cache")
    with caplog.at_level(logging.WARNING, "tritonsync"):
        assert now.precompiled_at_hand(key[:16]) is None
        assert list(now.precompiled(key)) == []
    assert [str(tmp_path / "cache") in record.getMessage() for record in caplog.records] == [True]
