"""What manifests say of the place a bundle was made at: this host, and what Triton wrote beside its kernels."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from pathlib import Path

from tritonsync._version import __version__
from tritonsync.errors import TritonSyncError
from tritonsync.format.kernel import Kernel
from tritonsync.format.manifest import Environment
from tritonsync.local import triton_cache

__all__ = ["environment_of_folder", "host_environment", "kernel_facts", "with_target"]


def host_environment(
    *,
    torch: str | None = None,
    triton: str | None = None,
    cuda: str | None = None,
    device: str | None = None,
    target: str | None = None,
) -> Environment:
    """Return the environment of this process, with what only the caller can know.

    Args:
        torch: torch's version.
        triton: Triton's version.
        cuda: the CUDA version that torch was built for.
        device: the GPU's name.
        target: the GPU's backend and architecture, such as `cuda:90`.
    """
    return Environment(
        tritonsync=__version__,
        torch=torch,
        triton=triton,
        python=platform.python_version(),
        cuda=cuda,
        device=device,
        target=target,
        machine=platform.machine(),
    )


def kernel_facts(kernel: Kernel) -> tuple[str | None, str | None]:
    """Return the version of Triton that compiled a kernel, and the target it is for, as `<name>.json` states them.

    None stands for what it does not state (triton/compiler/compiler.py, 3.6 and 3.9, writes both).
    """
    contents = {file.name: file.payload for file in kernel.files}
    metadata = contents.get(f"{kernel.name}.json")
    if metadata is None:
        return None, None
    try:
        stated = json.loads(metadata)
        version, target = stated.get("triton_version"), stated.get("target")
    except (ValueError, RecursionError, AttributeError):
        return None, None
    if not isinstance(target, dict) or "backend" not in target or "arch" not in target:
        return _clean(version), None
    return _clean(version), _clean(f"{target['backend']}:{target['arch']}")


def with_target(environment: Environment, kernels: Iterable[Kernel]) -> Environment:
    """Return the environment with the target of these kernels, where it states none."""
    if environment.target is not None:
        return environment
    targets = (target for _, target in map(kernel_facts, kernels) if target is not None)
    return environment.stating(target=next(targets, None))


def environment_of_folder(triton_dir: Path) -> Environment:
    """Return the environment of this host, and of the kernel in the cache folder that was compiled last.

    Raises:
        LocalCacheError: the folder cannot be listed.
    """
    for folder in _newest_first(triton_dir):
        try:
            kernel = triton_cache.collect(folder.path, folder.device)
        except TritonSyncError:
            continue
        triton, target = (None, None) if kernel is None else kernel_facts(kernel)
        if target is not None:
            return host_environment(triton=triton, target=target)
    return host_environment()


def _clean(text: object) -> str | None:
    """Return a text that a manifest can hold."""
    return text[:80].encode(errors="replace").decode() if isinstance(text, str) else None


def _newest_first(triton_dir: Path) -> list[triton_cache.KernelFolder]:
    found = [(_changed(folder.path), folder) for folder in triton_cache.scan(triton_dir)]
    return [folder for _, folder in sorted(found, key=lambda pair: (-pair[0], str(pair[1].path)))]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
