"""Helper modules and timings: files that Triton keeps one by one, each for one kind of host."""

from __future__ import annotations

import json
import platform
import shutil
import sysconfig
from pathlib import Path

import pytest

from tests.kernels import age
from tests.plugins.plain import PROGRAM, PlainWorker, plain_worker, triton_path
from tests.raw import RawBucket
from tritonsync.format.bundle import Bundle
from tritonsync.format.kernel import Kernel, KernelFile

__all__ = ["plain_worker", "triton_path"]

NO_COMPILER = "/bin/false"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
VARIANT = f"{SUFFIX.lstrip('.')}-{platform.machine()}"


@pytest.fixture
def worker(plain_worker: PlainWorker, triton_path: Path | None, tmp_path: Path) -> PlainWorker:
    """Starts programs with each version of Triton."""
    return PlainWorker(tmp_path, plain_worker.site, PROGRAM, triton=triton_path)


def test_helper_modules_need_no_compiler(worker: PlainWorker, tmp_path: Path) -> None:
    """A module that one worker has built is loaded by the next one, whose compiler fails."""
    bucket = tmp_path / "bucket"
    first = worker.run("module", bucket=bucket, TRITONSYNC_WORKLOAD="plain_triton")
    assert (first.out["answer"], first.counts["published"]) == (42, 1)
    raw = RawBucket(str(bucket))
    assert f"/{VARIANT}/" in raw.only("^bundles/triton/.*/manifest.json$")
    for workload in ("plain_triton", "other"):
        second = worker.run("module", bucket=bucket, TRITONSYNC_WORKLOAD=workload, CC=NO_COMPILER)
        assert (second.out["answer"], second.counts["hits"], second.counts["bytes_up"]) == (
            42,
            1,
            0,
        ) or workload == "other"
    worker.run("module", code=1, CC=NO_COMPILER)


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "just-now"])
def test_a_torn_module_is_never_loaded(worker: PlainWorker, tmp_path: Path, settled: bool) -> None:
    """It is fetched again, or built again where another process may be writing it."""
    bucket, cache = tmp_path / "bucket", tmp_path / "cache"
    worker.run("module", bucket=bucket, cache=cache)
    [path] = cache.glob(f"*/helper{SUFFIX}")
    path.write_bytes(path.read_bytes()[:5000])
    if settled:
        age(path.parent)
    compiler = NO_COMPILER if settled else "cc"
    done = worker.run("module", bucket=bucket, cache=cache, TRITONSYNC_WORKLOAD="other", CC=compiler)
    assert done.out["answer"] == 42


def test_a_module_that_does_not_load_here_is_replaced(worker: PlainWorker, tmp_path: Path) -> None:
    """One that was linked for a newer host, say: Triton builds its own, and that is what the others get."""
    bucket, scratch = RawBucket(str(tmp_path / "bucket")), tmp_path / "scratch"
    worker.run("module", cache=scratch)
    [path] = scratch.glob(f"*/helper{SUFFIX}")
    data = path.read_bytes().replace(b"PyLong_FromLong", b"PyLong_NotHere1")
    bad = Kernel(hash=path.parent.name, device=None, files=(KernelFile(path.name, data),))
    store = bucket.store()
    store.publish(Bundle(kind="triton", key=bad.hash, variant=VARIANT, kernels=(bad,)))
    done = worker.run("module", bucket=bucket.url, TRITONSYNC_WORKLOAD="one")
    assert done.out["answer"] == 42
    [loaded] = store.load("triton", bad.hash).bundles
    assert loaded.manifest.generation == 1
    again = worker.run("module", bucket=bucket.url, TRITONSYNC_WORKLOAD="two", CC=NO_COMPILER)
    assert again.out["answer"] == 42


def test_timings_are_those_of_a_gpu_model(worker: PlainWorker, tmp_path: Path) -> None:
    """Another model measures for itself, the same one does not, and where the model is not known nothing is shared."""
    bucket, h200, h100 = tmp_path / "bucket", "NVIDIA H200", "NVIDIA H100 80GB HBM3"
    assert worker.run("timings", "", bucket=bucket).out["tuned"]
    assert worker.run("timings", h200, bucket=bucket).out["tuned"]
    other = worker.run("timings", h100, bucket=bucket)
    assert other.out["tuned"]
    for gpu in (h200, h100):
        again = worker.run("timings", gpu, bucket=bucket)
        assert (again.out["tuned"], again.out["found"]) == (False, gpu)
    names = RawBucket(str(bucket)).names("^bundles/triton/.*/manifest.json$")
    assert sorted(name.split("/")[3] for name in names) == ["NVIDIA-H100-80GB-HBM3", "NVIDIA-H200"]


def test_torn_timings_are_measured_again(worker: PlainWorker, tmp_path: Path) -> None:
    """Triton itself raises over them."""
    cache = tmp_path / "cache"
    worker.run("timings", "NVIDIA H200", bucket=tmp_path / "bucket", cache=cache)
    [path] = cache.glob("*/*.autotune.json")
    path.write_text(path.read_text()[:20])
    done = worker.run("timings", "NVIDIA H200", bucket=tmp_path / "other", cache=cache)
    assert done.out["tuned"]
    assert json.loads(path.read_text())["gpu"] == "NVIDIA H200"
    shutil.rmtree(cache)
