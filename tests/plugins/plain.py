"""Workers that use Triton without torch, with one of the versions of Triton that are supported."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.plugins.conftest import Done, Worker
from tests.servers import Place

__all__ = ["MANAGER", "VERSIONS", "PlainWorker", "hits", "hot", "plain_worker", "triton_path"]

PROGRAM = Path(__file__).parents[1] / "programs" / "plain_triton.py"
MANAGER = "tritonsync.plugins.triton:TritonSyncCacheManager"
VERSIONS = ("3.6.0", "3.9.0")


@dataclasses.dataclass(frozen=True)
class PlainWorker(Worker):
    """Starts programs that know tritonsync by nothing but the variables of their environment.

    Attributes:
        triton: the folder for sys.path that has a version of Triton; None: the installed one.
        strict: whether a failure inside tritonsync is to be seen.
    """

    triton: Path | None = None
    strict: bool = True

    def environ(self, bucket: Place | Path | str | None, cache: Path, **variables: str) -> dict[str, str]:
        environ = super().environ(bucket, cache, TRITON_CACHE_DIR=str(cache), TRITON_CACHE_MANAGER=MANAGER)
        environ["TRITONSYNC_STRICT"] = str(int(self.strict))
        if self.triton is not None:
            environ["PYTHONPATH"] = os.pathsep.join([str(self.triton), environ["PYTHONPATH"]])
        return environ | variables


def install_triton(version: str, pytestconfig: pytest.Config) -> Path | None:
    """Return the folder for sys.path of a version, installed once into pytest's cache folder; None: it is there."""
    if importlib.metadata.version("triton") == version:
        return None
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir(f"triton-{version}-{sys.implementation.cache_tag}")
    complete = folder / "complete"
    # Its own sources are part of Triton's hashes: a test that runs while another process installs sees them change.
    with FileLock(f"{folder}.lock"):
        if complete.exists():
            return folder
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run(
            [*pip, "--upgrade", "--target", str(folder), f"triton=={version}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            pytest.skip(f"triton {version} could not be installed: {reason}")
        complete.touch()
    return folder


@pytest.fixture(scope="session", params=VERSIONS)
def triton_path(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Path | None:
    """Each version of Triton."""
    return install_triton(request.param, pytestconfig)


@pytest.fixture(scope="session")
def plain_worker(tmp_path_factory: pytest.TempPathFactory, site: Path) -> PlainWorker:
    """Starts programs with the installed version of Triton."""
    return PlainWorker(tmp_path_factory.mktemp("plain-workers"), site, PROGRAM)


def hits(done: Done) -> list[bool]:
    """Return, for each kernel of a program, whether Triton's listener spoke of a cache hit."""
    return [kernel["hit"] for kernel in done.out["kernels"]]


def hot(done: Done) -> list[dict[str, Any]]:
    """Return what the kernels are made of, without where they came from."""
    return [{name: value for name, value in kernel.items() if name != "hit"} for kernel in done.out["kernels"]]
