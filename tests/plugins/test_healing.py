"""Values that are intact and of no use are replaced, not kept for ever."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins.conftest import Filled, Worker
from tests.raw import RawBucket
from tritonsync.format.value import bundle_of_value, value_of_bundle
from tritonsync.local.cpu import host_cpu


def fx_keys(raw: RawBucket) -> list[str]:
    return sorted({name.split("/")[2] for name in raw.names("^bundles/fx_graph/")})


def without_copies(raw: RawBucket) -> None:
    """Leave the bundles themselves alone to serve, not their copies beside the list."""
    for name in raw.names("/start.tar$"):
        raw.delete(name)


def spoil(filled: Filled, target: Path, change: Callable[[bytes], bytes]) -> RawBucket:
    """Copy a bucket, its FX values changed and published as if a worker had made them so."""
    shutil.copytree(filled.path, target)
    raw = RawBucket(str(target))
    without_copies(raw)
    store = raw.store(cpu=host_cpu())
    for key in fx_keys(raw):
        (loaded,) = store.load("fx_graph", key).bundles
        value = change(value_of_bundle(loaded.bundle))
        shutil.rmtree(target / "bundles" / "fx_graph" / key)
        bundle = bundle_of_value("fx_graph", key, value, cpu=host_cpu())
        assert store.publish(bundle).created
    return raw


def cannot_be_unpickled(value: bytes) -> bytes:
    changed = value.replace(b"torch._inductor.output_code", b"torch._inductor.output_gone")
    assert changed != value
    return changed


def test_a_value_that_cannot_be_unpickled(worker: Worker, filled: Filled, tmp_path: Path) -> None:
    """The next writer publishes under the next generation, and the one after it is warm."""
    raw = spoil(filled, tmp_path / "bucket", cannot_be_unpickled)
    second = worker.run("train", bucket=tmp_path / "bucket", TRITONSYNC_STRICT="1")
    assert len(second.compiled) == 2
    assert second.out["numbers"] == filled.first.out["numbers"]
    store = raw.store(cpu=host_cpu())
    for key in fx_keys(raw):
        (loaded,) = store.load("fx_graph", key).bundles
        assert loaded.manifest.generation == 1
    third = worker.run("train", bucket=tmp_path / "bucket", TRITONSYNC_STRICT="1")
    assert third.compiled == []
    assert third.hits == (2, 1)


def test_a_value_whose_graphs_are_gone_or_damaged(worker: Worker, filled: Filled, tmp_path: Path) -> None:
    """They are published again, and the AOTAutograd value that names them is as good as it was."""
    place = tmp_path / "bucket"
    shutil.copytree(filled.path, place)
    raw = RawBucket(str(place))
    without_copies(raw)
    names = raw.names("^bundles/aot_autograd/.*/manifest.json$")
    keys = fx_keys(raw)
    gone, damaged = keys
    shutil.rmtree(place / "bundles" / "fx_graph" / gone)
    raw.damage(raw.only(f"^bundles/fx_graph/{damaged}/.*/pack"), "flip")
    for name in raw.names(f"^bundles/fx_graph/{damaged}/.*/payloads/"):
        raw.delete(name)
    second = worker.run("train", bucket=place, TRITONSYNC_STRICT="1")
    assert len(second.compiled) == 2
    assert fx_keys(raw) == keys
    assert raw.names("^bundles/aot_autograd/.*/manifest.json$") == names
    third = worker.run("train", bucket=place, TRITONSYNC_STRICT="1")
    assert (third.compiled, third.hits) == ([], (2, 1))


def test_a_value_for_another_libdevice(worker: Worker, filled: Filled, tmp_path: Path) -> None:
    """torch stops at the first value whose guards hold, and then refuses it; it is not offered, and the next one is."""
    place = tmp_path / "bucket"
    shutil.copytree(filled.path, place)
    worker.run("other_libdevice", str(place), TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    raw = RawBucket(str(place))
    without_copies(raw)
    store = raw.store(cpu=host_cpu())
    assert {len(store.load("fx_graph", key).bundles) for key in fx_keys(raw)} == {1}
    second = worker.run("train", bucket=place, TRITONSYNC_STRICT="1")
    assert len(second.compiled) == 2
    third = worker.run("train", bucket=place, TRITONSYNC_STRICT="1")
    assert third.compiled == []
    assert {len(store.load("fx_graph", key).bundles) for key in fx_keys(raw)} == {2}


@pytest.mark.slow
def test_code_for_another_cpu_is_not_offered(worker: Worker, fresh_worker: Worker, tmp_path: Path) -> None:
    """A value with vectors of AVX-512 stays away from a host that has AVX2, whose numbers are right."""
    bucket = tmp_path / "bucket"
    writer = worker.run("elementwise", "avx512", bucket=bucket, TRITONSYNC_STRICT="1")
    assert len(writer.compiled) == 1
    reader = fresh_worker.run("elementwise", "avx2", bucket=bucket, TRITONSYNC_STRICT="1", ATEN_CPU_CAPABILITY="avx2")
    assert len(reader.compiled) == 1
    assert reader.out["numbers"] == 0
    raw = RawBucket(str(bucket))
    manifests = [json.loads(raw.read(name)) for name in raw.names("^bundles/fx_graph/.*/manifest.json$")]
    machine = platform.machine()
    assert sorted(each["environment"]["requires"] for each in manifests) == [f"{machine}:avx2", f"{machine}:avx512"]
