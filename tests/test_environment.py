from __future__ import annotations

import platform
from pathlib import Path

import pytest

import tritonsync
from tests.kernels import CompiledKernels, age, file_of, with_file
from tritonsync.format import manifest as manifests
from tritonsync.format.bundle import Bundle
from tritonsync.sync.environment import environment_of_folder, host_environment, kernel_facts


def test_a_kernel_tells_who_compiled_it_and_for_what(compiled_kernels: CompiledKernels) -> None:
    """Triton's version and the target are those of the kernel, not of this process."""
    versions = {kernel_facts(kernel)[0] for kernel in compiled_kernels.kernels()}
    targets = [kernel_facts(kernel)[1] for kernel in compiled_kernels.kernels()]
    assert len(versions) == 1
    assert targets == ["cuda:90", "cuda:90", "cuda:90", "cuda:80"]


@pytest.mark.parametrize(
    ("metadata", "facts"),
    [
        (b"", (None, None)),
        (b"[]", (None, None)),
        (b"[" * 100_000, (None, None)),
        (b"{}", (None, None)),
        (b'{"triton_version":3,"target":"sm_90"}', (None, None)),
        (b'{"triton_version":"3.9.0","target":{"backend":"hip"}}', ("3.9.0", None)),
        (b'{"triton_version":"3.9.0","target":{"backend":"hip","arch":"gfx942"}}', ("3.9.0", "hip:gfx942")),
        (b'{"triton_version":"\\ud800","target":{"backend":"\\udfff","arch":1}}', ("?", "?:1")),
    ],
)
def test_facts_that_are_none(
    metadata: bytes, facts: tuple[str | None, str | None], compiled_kernels: CompiledKernels
) -> None:
    """Whatever stands there, a manifest can be made of it."""
    kernel = compiled_kernels.kernel()
    kernel = with_file(kernel, file_of(kernel, ".json").name, metadata)
    assert kernel_facts(kernel) == facts
    environment = host_environment(triton=facts[0], target=facts[1])
    bundle = Bundle(kind="triton", key="key")
    described = manifests.describe(bundle, created="2026-11-23T03:44:55Z", environment=environment, pack=None)
    assert manifests.decode(manifests.encode(described), "name") == described


def test_a_folder_tells_of_the_kernel_that_was_compiled_last(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Older ones, and folders that hold no kernel, do not count."""
    copy = compiled_kernels.copy(tmp_path / "triton")
    (copy.directory / ("A" * 52)).mkdir()
    for name in copy.hashes[:3]:
        age(copy.directory / name)
    assert environment_of_folder(copy.directory).target == "cuda:80"
    age(copy.directory / copy.hashes[3], seconds=48 * 3600)
    assert environment_of_folder(copy.directory).target == "cuda:90"


def test_an_empty_folder_tells_of_this_host(tmp_path: Path) -> None:
    """What is not known is left out."""
    found = environment_of_folder(tmp_path / "missing")
    assert (found.tritonsync, found.python) == (tritonsync.__version__, platform.python_version())
    assert (found.triton, found.target, found.torch) == (None, None, None)
