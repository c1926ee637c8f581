"""What makes the files of a library fit elsewhere, found out on this host."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.folders import install, write
from tritonsync.errors import LocalCacheError
from tritonsync.format.ranks import Rank
from tritonsync.local import identity
from tritonsync.local.gpu import Gpus, amd_gpus, nvidia_gpus
from tritonsync.local.identity import FACTS, library, rank_of, ships

#: NVIDIA's library, as far as it is asked.
NVML = """
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "550.54.15", size); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    strncpy(text, device == (void *)2 ? "NVIDIA H100" : "NVIDIA H200", size);
    return device == (void *)0;
}
"""


def test_a_wheel_is_known_whoever_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the files it brings, in any order; not by what an installer compiles, generates or notes."""
    install("deep-gemm", tmp_path, monkeypatch)
    plain = library(("deep-gemm",))
    assert plain.startswith("2.1 (wheel ")
    record = tmp_path / "deep_gemm-2.1.dist-info" / "RECORD"
    more = (
        "../../../bin/deep,sha256=x,200\ndeep_gemm/__pycache__/__init__.cpython-312.pyc,,\n"
        "deep_gemm-2.1.dist-info/INSTALLER,sha256=x,4\ndeep_gemm-2.1.dist-info/direct_url.json,sha256=x,4\n"
    )
    record.write_text(more + record.read_text())
    assert library(("deep-gemm",)) == plain
    install("deep-gemm", tmp_path, monkeypatch, code="two")
    assert library(("deep-gemm",)) != plain


def test_a_library_without_a_wheel_is_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there, or that nothing lists the files of; of several names the first that is there counts."""
    with pytest.raises(LocalCacheError, match="none of deep-gemm, sgl-deep-gemm is installed here"):
        library(("deep-gemm", "sgl-deep-gemm"))
    install("sgl-deep-gemm", tmp_path, monkeypatch)
    assert library(("deep-gemm", "sgl-deep-gemm")).startswith("sgl-deep-gemm 2.1 (wheel ")
    (tmp_path / "sgl_deep_gemm-2.1.dist-info" / "RECORD").unlink()
    with pytest.raises(LocalCacheError, match="not installed from a wheel"):
        library(("sgl-deep-gemm",))


def test_which_files_a_library_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of that name, at any depth."""
    install("deep-gemm", tmp_path, monkeypatch)
    assert not ships(("deep-gemm",), "deep_jit")
    record = tmp_path / "deep_gemm-2.1.dist-info" / "RECORD"
    record.write_text(f"deep_gemm/include/deep_jit/api.hpp,sha256=a,1\n{record.read_text()}")
    assert ships(("deep-gemm",), "deep_jit")
    assert not ships(("nobody",), "deep_jit")


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_nvidias_gpus_are_asked_for_by_their_driver(tmp_path: Path) -> None:
    """Models once each, and the driver's version; without the library, or with another one, nothing."""
    source = write(tmp_path, {"nvml.c": NVML.encode()}) / "nvml.c"
    library = str(tmp_path / "libnvidia-ml.so.1")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, str(source)], check=True)
    assert nvidia_gpus(library) == Gpus(("NVIDIA H100", "NVIDIA H200"), "550.54.15")
    assert nvidia_gpus(str(tmp_path / "none.so")) == Gpus()
    assert nvidia_gpus("libc.so.6") == Gpus()


def test_amds_gpus_are_told_by_the_kernel(tmp_path: Path) -> None:
    """By their architectures; nodes of CPUs have none."""
    write(
        tmp_path,
        {
            "0/properties": b"cpu_cores_count 64\ngfx_target_version 0\n",
            "1/properties": b"simd_count 416\ngfx_target_version 90402\n",
            "2/properties": b"gfx_target_version 90010\n",
        },
    )
    version = write(tmp_path / "module", {"version": b"6.8.5\n"}) / "version"
    assert amd_gpus(tmp_path / "none", version) == Gpus()
    (tmp_path / "module").rename(tmp_path.with_name("module"))
    moved = tmp_path.with_name("module") / "version"
    assert amd_gpus(tmp_path, moved) == Gpus(("gfx90a", "gfx942"), "6.8.5")
    assert amd_gpus(tmp_path, tmp_path / "none").driver == platform.release()


def test_nvcc_is_the_one_of_the_toolkit(tmp_path: Path) -> None:
    """That CUDA_HOME names, else CUDA_PATH."""
    for version in ("12.9.86", "13.0.88"):
        nvcc = write(tmp_path / version, {"bin/nvcc": b""}) / "bin" / "nvcc"
        nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release 1, V{version}'\n")
        nvcc.chmod(0o755)
    old, new = str(tmp_path / "12.9.86"), str(tmp_path / "13.0.88")
    assert FACTS["nvcc"]({"CUDA_HOME": old, "CUDA_PATH": new}) == "12.9.86"
    assert FACTS["nvcc"]({"CUDA_PATH": new}) == "13.0.88"


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, Rank(1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Rank(8, 3)),
        ({"RANK": "3"}, Rank(1, 0)),
        ({"RANK": "x", "WORLD_SIZE": "8"}, Rank(1, 0)),
    ],
)
def test_the_rank_is_the_launchers(variables: dict[str, str], rank: Rank) -> None:
    """A program that nobody launched so is rank 0 of 1."""
    assert rank_of(variables) == rank


def test_every_fact_is_a_line_on_every_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no GPU."""
    monkeypatch.setattr(identity, "host_gpus", Gpus)
    facts = {name: find({}) for name, find in FACTS.items()}
    assert all(text and text.isprintable() for text in facts.values())
    assert (facts["gpu"], facts["driver"]) == ("none", "none")
    monkeypatch.setattr(identity, "host_gpus", lambda: Gpus(("NVIDIA H100", "NVIDIA H200"), "550.54.15"))
    assert (FACTS["gpu"]({}), FACTS["driver"]({})) == ("NVIDIA H100 + NVIDIA H200", "550.54.15")
