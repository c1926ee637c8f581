"""Autotune results: found for a value, written where torch looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tritonsync.errors import FormatError
from tritonsync.format.facts import ValueFacts, read_facts
from tritonsync.local.autotune import AutotuneResult, autotune_results, results_of, write_autotune

NAME = "0" * 64 + ".best_config"


def result(folder: str = "ab", name: str = NAME, **config: object) -> AutotuneResult:
    return AutotuneResult(folder, name, json.dumps(config).encode())


def test_all_results_of_a_real_cache_belong_to_its_graph(h200_vit: Path) -> None:
    """Three configurations, each the winner among kernels of the one graph."""
    (value,) = (path for path in (h200_vit / "fxgraph").rglob("*") if path.is_file())
    found = results_of(autotune_results(h200_vit), read_facts(value.read_bytes()))
    on_disk = sorted(path.relative_to(h200_vit).as_posix() for path in h200_vit.rglob("*.best_config"))
    assert len(on_disk) == 3
    assert [f"{result.folder}/{result.name}" for result in found] == on_disk
    assert all(result.data == (h200_vit / result.folder / result.name).read_bytes() for result in found)


def test_a_result_belongs_by_kernel_or_by_source() -> None:
    """The winner's hash; or, for coordinate descent, which names none, the folder of the kernel's source."""
    by_hash = result("aa", triton_cache_hash="K1")
    by_source = result("bc", triton_cache_hash=None)
    other = result("dd", triton_cache_hash="K2")
    results = (by_hash, by_source, other)
    assert results_of(results, ValueFacts(kernel_hashes=frozenset({"K1"}))) == (by_hash,)
    assert results_of(results, ValueFacts(kernel_sources=frozenset({"cbcxyz.py"}))) == (by_source,)
    assert results_of(results, ValueFacts()) == ()


def test_only_readable_results_in_their_folders_are_found(tmp_path: Path) -> None:
    """Damaged ones, temporary ones and other files are passed over."""
    for name, data in (
        (f"ab/{NAME}", b'{"XBLOCK": 8}'),
        (f"cd/{NAME}", b"{"),
        (f"ef/{NAME}", b"[]"),
        ("ab/.12.tmp", b"{}"),
        ("ab/cabx.py", b""),
        (f"locks/{NAME}", b"{}"),
        ("gh", b""),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert [(found.folder, found.config) for found in autotune_results(tmp_path)] == [("ab", {"XBLOCK": 8})]
    assert autotune_results(tmp_path / "none") == ()


def test_a_result_that_may_not_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One file of another user does not keep the others from being found."""
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / NAME).write_bytes(b'{"XBLOCK": 8}')
    (tmp_path / "cd" / NAME).mkdir(parents=True)  # as root, whom no permission stops, a folder cannot be read either
    assert [found.folder for found in autotune_results(tmp_path)] == ["ab"]
    assert f"cd/{NAME}" in caplog.text


def test_a_result_is_written_to_its_place(tmp_path: Path) -> None:
    """New, there already, and this host's own one, which stays."""
    remote, local = result(XBLOCK=8), result(XBLOCK=16)
    assert write_autotune(tmp_path, remote).outcome == "written"
    assert (tmp_path / "ab" / NAME).read_bytes() == remote.data
    assert write_autotune(tmp_path, remote).outcome == "present"
    assert write_autotune(tmp_path, local).outcome == "kept"
    assert autotune_results(tmp_path) == (remote,)


def test_a_damaged_result_is_replaced(tmp_path: Path) -> None:
    """Torch would raise on it."""
    path = write_autotune(tmp_path, result(XBLOCK=8)).path
    path.write_bytes(b'{"XBL')
    assert write_autotune(tmp_path, result(XBLOCK=8)).outcome == "written"


def test_a_damaged_result_is_not_written(tmp_path: Path) -> None:
    """Nothing that torch would raise on gets there."""
    with pytest.raises(FormatError, match="not a JSON object"):
        write_autotune(tmp_path, AutotuneResult("ab", NAME, b"null"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "name"), [("..", NAME), ("a", NAME), ("a/", NAME), ("ab", "../x"), ("ab", "0.best_config")]
)
def test_a_place_outside_is_refused(folder: str, name: str) -> None:
    """Names come from a bucket."""
    with pytest.raises(FormatError, match="no place"):
        AutotuneResult(folder, name, b"{}")
