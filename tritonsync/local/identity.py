"""What makes a library's cache files safe elsewhere: facts of this host, each as a line of text that can be compared.

A version alone does not do: builds of one version differ, and so do their kernels. What tells them apart is the wheel,
known by the list of its files and their hashes (`RECORD`), from which everything is left out that an installer adds.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata

from tritonsync.errors import LocalCacheError
from tritonsync.format.ranks import Rank
from tritonsync.local.gpu import host_gpus

__all__ = ["FACTS", "distribution", "library", "rank_of", "ships"]

Environ = Mapping[str, str]
NONE = "none"

#: Files of a `.dist-info` folder that an installer writes.
_INSTALLED = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json", "uv_build.json")
_NVCC_S = 10.0


def distribution(names: Iterable[str]) -> metadata.Distribution:
    """Return the first of these distributions that is installed.

    Raises:
        LocalCacheError: none is.
    """
    names = tuple(names)
    for name in names:
        try:
            return metadata.distribution(name)
        except (metadata.PackageNotFoundError, ValueError):  # noqa: PERF203 - there are two at most
            continue
    raise LocalCacheError(
        f"none of {', '.join(names)} is installed here, so nothing tells which files of its cache would fit; install "
        "it, or name the folder with --bundle-dir and a key of your own"
    )


def library(names: Sequence[str]) -> str:
    """Return a distribution's version, and the first 16 hex digits of sha256 over the files of its wheel.

    Its name comes first where it is not the first of those that it could have.

    Raises:
        LocalCacheError: none is installed, or not from a wheel.
    """
    found = distribution(names)
    name = found.metadata["Name"]
    record = found.read_text("RECORD")
    files = sorted(line for line in (record or "").splitlines() if line and not _is_of_installer(line))
    if not files:
        raise LocalCacheError(
            f"{name} was not installed from a wheel, so nothing tells which files of its cache would fit; name the "
            "folder with --bundle-dir and a key of your own"
        )
    digest = hashlib.sha256("\n".join(files).encode()).hexdigest()[:16]
    build = f"{found.version} (wheel {digest})"
    return build if re.sub(r"[-_.]+", "-", name).lower() == names[0] else f"{name} {build}"


def ships(names: Iterable[str], folder: str) -> bool:
    """Whether one of these distributions is installed, and has files in a folder of that name."""
    try:
        files = distribution(names).files
    except LocalCacheError:
        return False
    return any(folder in file.parts for file in files or ())


def _is_of_installer(line: str) -> bool:
    path = line.partition(",")[0].strip('"')
    folder, _, name = path.rpartition("/")
    return (
        path.endswith(".pyc")
        or path.startswith(("..", "/"))  # scripts, which hold the path of this Python
        or (folder.endswith(".dist-info") and name in _INSTALLED)
    )


@functools.cache
def _nvcc(cuda_home: str) -> str:
    """Return the version of nvcc; where there is no toolkit, that of its wheel."""
    homes = [cuda_home] if cuda_home else []
    paths = [*(os.path.join(home, "bin", "nvcc") for home in homes), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    for path in paths:
        if path and os.path.exists(path):
            try:
                told = subprocess.run(  # noqa: S603 - the compiler that the libraries would run
                    [path, "--version"], capture_output=True, text=True, timeout=_NVCC_S, check=False
                ).stdout
            except (OSError, subprocess.TimeoutExpired, UnicodeError):
                continue
            version = re.search(r"\bV(\d+\.\d+\.\d+)", told)
            if version is not None:
                return version[1]
    try:
        return metadata.version("nvidia-cuda-nvcc")
    except metadata.PackageNotFoundError:
        return NONE


def rank_of(environ: Environ) -> Rank:
    """Return the rank that the launcher of a job gave this process; a program of its own is rank 0 of 1."""
    rank, world = environ.get("RANK", ""), environ.get("WORLD_SIZE", "")
    if all(text.isascii() and text.isdecimal() and len(text) < 10 for text in (rank, world)):
        return Rank(int(world), int(rank))
    return Rank(1, 0)


#: Name of a fact -> how it is found out; `none` where there is no such thing here.
FACTS: Mapping[str, Callable[[Environ], str]] = {
    "driver": lambda _: host_gpus().driver or NONE,
    "gpu": lambda _: " + ".join(host_gpus().names) or NONE,
    "libc": lambda _: " ".join(platform.libc_ver()).strip() or NONE,
    "machine": lambda _: platform.machine(),
    "nvcc": lambda environ: _nvcc(environ.get("CUDA_HOME") or environ.get("CUDA_PATH") or ""),
    "python": lambda _: ".".join(platform.python_version_tuple()[:2]),
    "rank": lambda environ: "{1} of {0}".format(*rank_of(environ)),
}
