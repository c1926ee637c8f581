"""Real values and kernels; what takes long is made once a session."""

import dataclasses
import hashlib
import json
import lzma
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.kernels import CompiledKernels
from tritonsync.format import manifest as manifests
from tritonsync.format import pack as packs
from tritonsync.format.bundle import Bundle, Digest
from tritonsync.format.kernel import Kernel, KernelFile, relocate_out
from tritonsync.format.manifest import Environment, Manifest

# The hosts that run tests are shared: a slow example is no failure.
settings.register_profile("shared-host", deadline=None)
settings.load_profile("shared-host")

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def vit_fx(h200_vit: Path) -> bytes:
    """Its FX value: 14 kernels."""
    return next(path for path in (h200_vit / "fxgraph").rglob("*") if path.is_file()).read_bytes()


@pytest.fixture(scope="session")
def vit_aot(h200_vit: Path) -> bytes:
    """Its AOTAutograd value: no kernels, points to the FX value."""
    return next(path for path in (h200_vit / "aotautograd").rglob("*") if path.is_file()).read_bytes()


@pytest.fixture(scope="session")
def vit_kernels(h200_vit: Path) -> dict[str, Kernel]:
    """Its kernel folders in stored form, by hash."""
    return {path.name: _stored(path) for path in (h200_vit / "triton" / "0").iterdir() if list(path.glob("__grp__*"))}


def _stored(folder: Path) -> Kernel:
    group = json.loads(next(folder.glob("__grp__*")).read_text())
    baked_in = os.path.dirname(next(iter(group["child_paths"].values())))  # noqa: PTH120 - a path of another host
    files = [
        KernelFile(path.name, relocate_out(path.name, path.read_bytes(), (baked_in,))) for path in folder.iterdir()
    ]
    return Kernel(folder.name, 0, tuple(files))


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """FX and AOTAutograd value of one guard variant, with their keys."""

    fx_key: str
    fx: bytes
    aot: bytes


@pytest.fixture(scope="session")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Dynamic]:
    """Two guard variants of one key: called with 50 rows, and with 200."""
    folder = tmp_path_factory.mktemp("dynamic")
    with tarfile.open(DATA / "dynamic-cpu.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    found = {}
    for rows in (50, 200):
        fx = next(path for path in (folder / str(rows) / "fxgraph").rglob("*") if path.is_file())
        aot = next(path for path in (folder / str(rows) / "aotautograd").rglob("*") if path.is_file())
        found[rows] = Dynamic(fx.parent.name, fx.read_bytes(), aot.read_bytes())
    return found


@pytest.fixture(scope="session")
def triton_kernels(compiled_kernels: CompiledKernels) -> list[Kernel]:
    """Three kernels that Triton compiled for compute capability 9.0."""
    folders = [compiled_kernels.directory / name for name in compiled_kernels.hashes[:3]]
    return sorted(map(_stored, folders), key=lambda kernel: kernel.hash)


@pytest.fixture(scope="session")
def bundled_aot(triton_kernels: list[Kernel]) -> bytes:
    """An AOTAutograd value with two bundles of real kernels; forward and backward share the second kernel.

    Torch made the value on the CPU, where bundles are empty; bundles of torch's own classes are put into it, and it is
    pickled again.
    """
    result = pickle.loads(lzma.decompress((DATA / "bundled-cpu.pickle.xz").read_bytes()))
    result.compiled_fw.result._triton_bundle = torch_bundle(triton_kernels[:2])
    result.compiled_bw.result._triton_bundle = torch_bundle(triton_kernels[1:])
    return pickle.dumps(result)


def torch_bundle(kernels: list[Kernel]) -> Any:
    """Torch's own TritonBundle of these kernels."""
    from torch._inductor.triton_bundler import TritonBundle, TritonKernelArtifact, TritonKernelArtifacts

    # Torch reads each file, so no two artifacts share a bytes object.
    return TritonBundle(
        [
            TritonKernelArtifacts(k.hash, k.device, [TritonKernelArtifact(f.name, _copy(f.payload)) for f in k.files])
            for k in kernels
        ],
        [],
    )


def _copy(data: bytes) -> bytes:
    return bytes(bytearray(data))


Describe = Callable[[Bundle], tuple[Manifest, bytes]]


@pytest.fixture(scope="session")
def describe() -> Describe:
    """Make the manifest and the pack of a bundle."""

    def make(bundle: Bundle) -> tuple[Manifest, bytes]:
        pack = packs.encode(bundle)
        digest = Digest(size=len(pack), sha256=hashlib.sha256(pack).hexdigest())
        made = manifests.describe(bundle, created="2026-11-23T03:44:55Z", environment=Environment(), pack=digest)
        return made, pack

    return make
