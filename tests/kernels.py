"""Helpers around real kernels: compiled in a child process, aged, damaged, and shown to PyTorch's own code."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.local import triton_cache

PROGRAMS = Path(__file__).parent / "programs"


@dataclasses.dataclass(frozen=True)
class CompiledKernels:
    """Kernels in a Triton cache folder: `<directory>/<hash>`, for compute capability 9.0 first, then 8.0."""

    directory: Path
    hashes: tuple[str, ...]

    def kernel(self, index: int = 0, device: int | None = 0) -> Kernel:
        """Collect one of them."""
        kernel = triton_cache.collect(self.directory / self.hashes[index], device)
        assert kernel is not None
        return kernel

    def kernels(self, device: int | None = 0) -> tuple[Kernel, ...]:
        """Collect all of them."""
        return tuple(self.kernel(index, device) for index in range(len(self.hashes)))

    def copy(self, directory: Path) -> CompiledKernels:
        """Copy the folders elsewhere, paths inside them untouched."""
        shutil.copytree(self.directory, directory)
        return CompiledKernels(directory, self.hashes)


def compile_kernels(directory: Path, *, count: int = 3, capability: int = 90) -> CompiledKernels:
    """Compile `count` kernels into `directory`, for an NVIDIA compute capability (90: 9.0)."""
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "compile_kernels.py"), str(count), str(capability)],
        env={**os.environ, "TRITON_CACHE_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return CompiledKernels(directory, tuple(done.stdout.split()))


def age(path: Path, seconds: float = 24 * 3600) -> None:
    """Make a folder and all in it look as if nothing had changed for so long."""
    when = time.time() - seconds
    for directory, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.utime(Path(directory, name), (when, when))
    os.utime(path, (when, when))


def with_file(kernel: Kernel, name: str, payload: bytes | None) -> Kernel:
    """Return the kernel with one file changed, added, or (None) taken away."""
    rest = [file for file in kernel.files if file.name != name]
    return dataclasses.replace(kernel, files=(*rest, *([] if payload is None else [KernelFile(name, payload)])))


def file_of(kernel: Kernel, suffix: str) -> KernelFile:
    """Return the kernel's file with that suffix; `.json` is the launch facts, `__grp__` the group."""
    for file in kernel.files:
        if file.name.startswith("__grp__") == (suffix == "__grp__") and (
            suffix == "__grp__" or file.name.endswith(suffix)
        ):
            return file
    raise AssertionError(suffix)


def contents(directory: Path) -> dict[str, bytes]:
    """Return name -> bytes of a folder."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Let root, who may read and write anything, be `nobody` meanwhile."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextlib.contextmanager
def not_writable(directory: Path) -> Iterator[None]:
    """Take away the right to write into a folder."""
    directory.chmod(0o555)
    try:
        with unprivileged():
            yield
    finally:
        directory.chmod(0o755)


class Upstream:
    """PyTorch's and Triton's own code in a child process (see programs/upstream.py)."""

    def __init__(self, cache_dir: Path) -> None:
        # TORCHINDUCTOR_VEC_ISA_OK skips ten seconds of compiling probes; what the CPU can do is found out all the same.
        environ = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache_dir), "TORCHINDUCTOR_VEC_ISA_OK": "1"}
        environ.pop("TRITONSYNC_URL", None)
        self._child = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(PROGRAMS / "upstream.py")],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, command: str, *arguments: object) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([command, *arguments]) + "\n")
        self._child.stdin.flush()
        answer = json.loads(self._child.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def collect(self, directory: Path, hashes: tuple[str, ...]) -> dict[str, dict[str, bytes]]:
        """Collect kernels with TritonBundler: hash -> file name -> bytes."""
        collected = self("collect", str(directory), list(hashes))
        return {
            kernel_hash: {name: base64.b64decode(data) for name, data in files.items()}
            for kernel_hash, files in collected.items()
        }

    def emit(self, directory: Path, *kernels: Kernel) -> list[str]:
        """Emit kernels with TritonBundler; return the names it says it wrote."""
        stored = {
            kernel.hash: {file.name: base64.b64encode(file.payload).decode() for file in kernel.files}
            for kernel in kernels
        }
        names: list[str] = self("emit", str(directory), stored)
        return names

    def group(self, directory: Path, kernel: Kernel) -> dict[str, str] | None:
        """Ask Triton for the files of a kernel, as `triton.compile` does first of all."""
        listed: dict[str, str] | None = self("group", str(directory), kernel.hash, kernel.name)
        return listed

    def close(self) -> None:
        """End the child."""
        self._child.communicate(timeout=30)
