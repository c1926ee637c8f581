"""Fixtures of all tests: real kernels and real caches. Session-scoped ones are read only; copy what you change."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernels import CompiledKernels, Upstream, compile_kernels
from tests.raw import RawBucket

if TYPE_CHECKING:
    from tests.servers import Place  # a plugin: importing it here would keep pytest from rewriting its asserts

DATA = Path(__file__).parent / "data"

#: Object stores on loopback.
pytest_plugins = ["tests.servers"]


@pytest.fixture(autouse=True)
def _our_logger_stays_as_it_is() -> Iterator[None]:
    """Some tests do in this process what is meant for the whole life of one."""
    ours = logging.getLogger("tritonsync")
    handlers, level = list(ours.handlers), ours.level
    yield
    ours.handlers[:] = handlers
    ours.setLevel(level)


@pytest.fixture(scope="session")
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory) -> CompiledKernels:
    """Three kernels for compute capability 9.0 and one for 8.0, compiled by the installed Triton."""
    directory = tmp_path_factory.mktemp("compiled") / "triton"
    hopper = compile_kernels(directory, count=3, capability=90)
    ampere = compile_kernels(directory, count=1, capability=80)
    return CompiledKernels(directory, hopper.hashes + ampere.hashes)


@pytest.fixture(scope="session")
def h200_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inductor's cache folder of a ViT-B/16 inference on an H200 (torch 2.11, triton 3.6), with its own paths."""
    target = tmp_path_factory.mktemp("h200")
    with tarfile.open(DATA / "h200-vit-infer.tar.xz") as archive:
        archive.extractall(target, filter="data")
    (found,) = target.rglob("fxgraph")
    return found.parent


@pytest.fixture(scope="session")
def real_cache(request: pytest.FixtureRequest) -> Path:
    """A real Inductor cache folder: the one that TRITONSYNC_TEST_CACHE names, else `h200_vit`."""
    named = os.environ.get("TRITONSYNC_TEST_CACHE")
    found: Path = Path(named) if named else request.getfixturevalue("h200_vit")
    return found


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """PyTorch's own TritonBundler and Triton's own cache, to judge what is written here."""
    child = Upstream(tmp_path_factory.mktemp("upstream"))
    yield child
    child.close()


@pytest.fixture(params=["local", "moto", "rclone", "gcs"])
def raw(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawBucket]:
    """An empty bucket of each kind: a folder, S3 with and without create-only writes, GCS."""
    if request.param == "local":
        yield RawBucket(str(tmp_path_factory.mktemp("bucket")))
        return
    place: Place = request.getfixturevalue(
        {"moto": "s3_place", "rclone": "rclone_place", "gcs": "gcs_place"}[request.param]
    )
    with RawBucket(place.url, place.options) as bucket:
        yield bucket


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder whose parents every user may enter, unlike those of `tmp_path`."""
    folder = Path(tempfile.mkdtemp(prefix="tritonsync-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
