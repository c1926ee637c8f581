"""What was damaged on this host is not published, not taken for good, and not kept."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from tests.kernels import CompiledKernels, age
from tests.raw import RawBucket
from tests.test_push_pull import assert_same, files, pull_folder, push_folder
from tritonsync.errors import LocalCacheError
from tritonsync.local import triton_cache
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.push import push


def copy_of(cache: Path, tmp_path: Path, name: str = "copy") -> Path:
    return shutil.copytree(cache, tmp_path / name)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    damaged = {"flip": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "cut": data[: len(data) // 2], "empty": b""}
    path.write_bytes(damaged[how])


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_a_damaged_value_is_not_published(
    h200_vit: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named, and the next push of a whole one serves everybody."""
    raw = RawBucket(str(tmp_path / "bucket"))
    damaged = copy_of(h200_vit, tmp_path)
    (value,) = damaged.glob("fxgraph/*/*/*")
    damage(value, how)
    with caplog.at_level(logging.WARNING, "tritonsync"):
        push_folder(raw, damaged)
    assert str(value) in caplog.text
    assert raw.names("^bundles/fx_graph/") == []
    push_folder(raw, h200_vit)
    pull_folder(raw, tmp_path / "reader")
    assert_same(tmp_path / "reader", h200_vit)


@pytest.mark.parametrize("suffix", [".cubin", ".json"])
@pytest.mark.parametrize("how", ["cut", "empty"])
def test_a_pull_mends_a_kernel_that_was_cut_short(h200_vit: Path, tmp_path: Path, suffix: str, how: str) -> None:
    """Also where graph and kernel folders are all there: a kernel is here only if it is whole."""
    raw = RawBucket(str(tmp_path / "bucket"))
    push_folder(raw, h200_vit)
    reader = tmp_path / "reader"
    pull_folder(raw, reader)
    before = files(reader)
    name = next(path for path in reader.glob(f"triton/0/*/triton_*{suffix}") if not path.name.startswith("__grp__"))
    damage(name, how)
    age(reader)
    pulled = pull_folder(raw, reader)
    assert (pulled.kernels_emitted, pulled.conflicts) == (1, 0)
    assert files(reader) == before


@pytest.mark.parametrize("how", ["cut", "empty"])
def test_a_kernel_without_its_launch_facts_is_not_collected(
    compiled_kernels: CompiledKernels, tmp_path: Path, how: str
) -> None:
    """Triton would fail on it."""
    copied = compiled_kernels.copy(tmp_path / "copy")
    folder = copied.directory / copied.hashes[0]
    damage(folder / "scale_kernel.json", how)
    assert triton_cache.collect(folder, None) is None


def test_nothing_whole_replaces_no_workload(h200_vit: Path, tmp_path: Path) -> None:
    """A push of folders in which nothing is finished is an error, not an empty list."""
    raw = RawBucket(str(tmp_path / "bucket"))
    push_folder(raw, h200_vit)
    (tmp_path / "empty" / "triton" / "0" / ("A" * 52)).mkdir(parents=True)
    with pytest.raises(LocalCacheError, match="nothing to push"):
        push_folder(raw, tmp_path / "empty")
    pull_folder(raw, tmp_path / "reader")
    assert_same(tmp_path / "reader", h200_vit)


def test_a_value_that_cannot_be_read_stops_nothing(h200_vit: Path, tmp_path: Path) -> None:
    """The rest is published. What is no file at all is not even opened."""
    cache = copy_of(h200_vit, tmp_path)
    (graph,) = cache.glob("fxgraph/*/*/*")
    os.mkfifo(graph.parent / "pipe")
    (graph.parent / "loop").symlink_to("loop")
    raw = RawBucket(str(tmp_path / "bucket"))
    pushed = push_folder(raw, cache)
    assert pushed.bundles == push_folder(RawBucket(str(tmp_path / "other")), h200_vit).bundles


def test_the_newest_workload_is_told_by_its_name(h200_vit: Path, tmp_path: Path) -> None:
    """In a bucket that was copied, objects may have been written in any order."""
    raw = RawBucket(str(tmp_path / "bucket"))
    kernels_only = tmp_path / "kernels-only"
    shutil.copytree(h200_vit / "triton", kernels_only / "triton")
    push_folder(raw, kernels_only)
    old = raw.names("^bundles/workload/w/.*manifest.json$")
    push_folder(raw, h200_vit)
    for name in old:
        os.utime(tmp_path / "bucket" / name, (4e9, 4e9))
    pull_folder(raw, tmp_path / "reader")
    assert_same(tmp_path / "reader", h200_vit)


def test_kernels_of_several_values_count_once(h200_vit: Path, tmp_path: Path) -> None:
    """Guard variants of one graph share their kernels."""
    cache = copy_of(h200_vit, tmp_path)
    (graph,) = cache.glob("fxgraph/*/*/*")
    key = graph.parent.name
    twin = graph.parents[1] / (key[:-1] + ("a" if key[-1] != "a" else "b"))
    shutil.copytree(graph.parent, twin)
    pushed = push(RawBucket(str(tmp_path / "bucket")).store(), LocalCaches.at(cache), cache / "triton", "w")
    assert pushed.kernels_new == pushed.kernels
