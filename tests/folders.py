"""Cache folders of other libraries, small and laid out as theirs are; and libraries that only seem to be installed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

#: The header of an ELF file without sections.
BINARY = b"\x7fELF\x02\x01\x01" + bytes(57)
HEX = "0123456789abcdef"

#: What travels, by preset; as the wheels that `local/presets.py` names write it.
LAYOUTS: Mapping[str, Mapping[str, bytes]] = {
    "deepgemm": {
        f"cache/kernel.sm90_fp8_gemm_1d2d.{HEX * 2}/kernel.cu": b"// code",
        f"cache/kernel.sm90_fp8_gemm_1d2d.{HEX * 2}/kernel.cubin": BINARY,
        f"cache/sm90_bf16_gemm.{HEX}/kernel.cu": b"// code",
        f"cache/sm90_bf16_gemm.{HEX}/kernel.cubin": BINARY,
        f"cache/sm90_bf16_gemm.{HEX}/meta.json": b"{}",
        f"cache/sm90_bf16_gemm.{HEX}/.committed": b"",
    },
    "tilelang": {
        f"0.1.15/linux-x86_64/kernels/{HEX * 4}/executable.so": BINARY,
        f"0.1.15/linux-x86_64/kernels/{HEX * 4}/params.json": b"[]",
        f"0.1.15/linux-x86_64/kernels/{HEX * 4}/manifest.json": b'{"version": 1, "files": {}}',
        f"0.1.15/cuda-binaries/{HEX * 4}/kernel.cubin": BINARY,
        f"0.1.15/cuda-binaries/{HEX * 4}/metadata.json": b"{}",
    },
    "triton-autotune": {f"{'A' * 52}/matmul.autotune.json": b'{"key": [1], "configs_timings": []}'},
    "helion": {f"{HEX * 4}.best_config": b'{"config": "{}"}'},
    "flashinfer-autotune": {
        f"v2/{HEX}/manifest.json": b'{"gpu": "NVIDIA H200"}',
        f"v2/{HEX}/entries/{HEX}01234567.json": b'{"key": "k", "runner": "r", "tactic": -1}',
    },
    "cuda-driver": {"index": b"of all", "0/a/123abc": b"binary", "f/1/456def": b"binary"},
}
#: What never does, in the same folders.
STAYS: Mapping[str, tuple[str, ...]] = {
    "deepgemm": (f"tmp/{HEX}/kernel.cu", f"cache/kernel.half.{HEX}/kernel.cu", f"cache/kernel.a.{HEX}/lock.lock"),
    "tilelang": (f"0.1.15/linux-x86_64/.staging/{HEX}/params.json", f"0.1.15/linux-x86_64/kernels/{HEX}/half.so"),
    "triton-autotune": (f"{'B' * 52}/add.cubin", f"{'B' * 52}/__grp__add.json", "tmp.pid_1_a/x.autotune.json"),
    "helion": (f"tmp.{HEX}", "triton/0/x.best_config", "notes.txt"),
    "flashinfer-autotune": (f"v2/{HEX}/entries/.autotune_a.tmp", "sparse_mla_sm120_cpb.json", f"v2/{HEX}/x.lock"),
    "cuda-driver": ("0/a/123abc.lock", "notes"),
}
#: Whose wheels, by preset.
LIBRARIES = {
    "deepgemm": ("deep-gemm",),
    "tilelang": ("tilelang", "apache-tvm-ffi"),
    "triton-autotune": ("triton",),
    "helion": ("helion", "triton", "torch"),
    "flashinfer-autotune": ("flashinfer-python",),
    "cuda-driver": (),
}
VARIABLES = {
    "deepgemm": "DG_JIT_CACHE_DIR",
    "tilelang": "TILELANG_CACHE_DIR",
    "triton-autotune": "TRITON_CACHE_DIR",
    "helion": "HELION_CACHE_DIR",
    "flashinfer-autotune": "FLASHINFER_AUTOTUNE_CACHE_DIR",
    "cuda-driver": "CUDA_CACHE_PATH",
}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder, and return it."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def make_folder(preset: str, folder: Path) -> Path:
    """Write a folder of a preset, with what does not travel."""
    return write(write(folder, LAYOUTS[preset]), dict.fromkeys(STAYS[preset], b"{}"))


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def install(name: str, site: Path, monkeypatch: pytest.MonkeyPatch, *, version: str = "2.1", code: str = "one") -> None:
    """Have a library that counts as installed from a wheel, and is not there."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    write(
        folder,
        {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
            "RECORD": f"{name}/__init__.py,sha256={code},1\n{folder.name}/RECORD,,\n".encode(),
        },
    )
    monkeypatch.syspath_prepend(str(site))


def document(files: Iterable[tuple[str, str]], name: str = "helion", **facts: str) -> str:
    """Return the list of a folder as it stands in a manifest; of each file, its path and sha256."""
    listed = [{"path": path, "sha256": sha256} for path, sha256 in files]
    return json.dumps({"facts": facts, "files": listed, "name": name}, sort_keys=True, separators=(",", ":"))
