from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run, no_settings, run
from tests.raw import RawBucket
from tritonsync.demo import MAX_KERNELS, demo
from tritonsync.errors import MissingExtraError
from tritonsync.store import Store

__all__ = ["no_settings", "run"]


def store_in(folder: Path) -> Store:
    return RawBucket(str(folder)).store()


def test_the_demo_ends_warm(run: Run, tmp_path: Path) -> None:
    """Every kernel is compiled once, pushed, pulled, and taken from the pulled cache; a bucket keeps them."""
    bucket = RawBucket(str(tmp_path / "bucket"))
    done = run("demo", "--kernels", "13", "--url", bucket.url, "--json")
    assert (done.code, done.err) == (0, "")
    counts = {name: done.json[name] for name in ("compiled", "pushed_kernels", "pulled_kernels", "hits", "recompiled")}
    assert counts == {"compiled": 13, "pushed_kernels": 13, "pulled_kernels": 13, "hits": 13, "recompiled": 0}
    assert done.json["pushed_bytes"] == sum(map(len, bucket.contents("^(bundles|kernels)/").values()))
    assert done.json["seconds"].keys() == {"compile", "push", "pull", "check"}
    assert len(bucket.names("cubin$")) == 13


def test_the_demo_tells_what_it_does(run: Run) -> None:
    """One line a step, and the result."""
    done = run("demo", "--kernels", "1")
    assert (done.code, done.err) == (0, "")
    steps = [line.split()[0] for line in done.out.splitlines()]
    assert steps == ["compile", "push", "pull", "check", "passed:"]


def test_a_kernel_that_was_not_pulled_is_compiled_and_told(tmp_path: Path) -> None:
    """What is missing from the second cache is a recompilation, in Triton's own words, and the demo has not passed."""
    caches = tmp_path / "caches"

    def lose_one(step: str, _what: str, _seconds: float) -> None:
        if step == "pull":
            shutil.rmtree(next((caches / "second-triton").iterdir()))

    done = demo(lambda _environment: store_in(tmp_path / "bucket"), caches, kernels=2, report=lose_one)
    assert (done.compiled, done.hits, done.recompiled, done.passed) == (2, 1, 1, False)


def test_the_demo_does_not_believe_paths_of_the_first_cache(tmp_path: Path) -> None:
    """When Triton is asked for the second time, the first cache is gone and nothing in the second one names it."""
    caches = tmp_path / "caches"
    seen: list[str] = []

    def look(step: str, _what: str, _seconds: float) -> None:
        if step == "pull":
            assert not (caches / "first-triton").exists()
            groups = list((caches / "second-triton").glob("*/__grp__*"))
            seen.extend(group.read_text() for group in groups)

    assert demo(lambda _environment: store_in(tmp_path / "bucket"), caches, kernels=2, report=look).passed
    assert len(seen) == 2
    assert not any("first-triton" in text for text in seen)


def test_without_triton_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is begun."""
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tritonsync\[demo\]'"):
        demo(lambda _environment: store_in(tmp_path), tmp_path, kernels=1, report=lambda *_told: None)
    assert list(tmp_path.iterdir()) == []


def test_the_command_offers_as_many_kernels_as_there_are() -> None:
    """The limit of the option is that of the script, which can be read only where Triton is installed."""
    from tritonsync.cli import demo as command
    from tritonsync.demo import kernels as script

    assert command.MAX_KERNELS == MAX_KERNELS == len(script.KERNELS) * len(script.SHAPES)
