"""This host, or one process of a run on it, as a bundle's needs are compared with it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import sysconfig
from collections.abc import Iterator, Mapping
from typing import Any

from tritonsync.format.bundle import GRAPHS
from tritonsync.format.key_parts import Difference
from tritonsync.format.manifest import Environment, Manifest
from tritonsync.format.ranks import Rank, fulfilled, required_rank
from tritonsync.local.cpu import host_cpu
from tritonsync.local.gpu import first_gpu
from tritonsync.settings import Settings
from tritonsync.sync.environment import host_environment

__all__ = ["Here", "here_of_facts", "host_here", "needs"]


#: What a report tells of a process that manifests state as well.
_FACTS = ("torch", "triton", "python", "cuda", "device", "target")


@dataclasses.dataclass(frozen=True)
class Here:
    """What a key depends on, as far as it is known.

    Attributes:
        environment: versions and GPU; None in a field: not known, or for the GPU that there is none.
        cpu: `machine:isa`.
        rank: of the process in its job.
    """

    environment: Environment
    cpu: str
    rank: Rank | None

    def summary(self) -> str:
        """Return it in one line."""
        made = self.environment
        known = [f"{name} {version}" for name, version in (("torch", made.torch), ("triton", made.triton)) if version]
        gpu = made.device or "no GPU"
        rank = [] if self.rank in (None, Rank(1, 0)) else [str(self.rank)]
        return ", ".join([*(known or ["no torch installed"]), f"Python {made.python}", gpu, self.cpu, *rank])


def host_here(settings: Settings) -> Here:
    """Return this host, without importing torch: versions of the packages of this Python, the driver's first GPU."""
    gpu = first_gpu()
    rank = Rank(1, 0)
    if settings.rank is not None and settings.world_size is not None:
        rank = Rank(settings.world_size, settings.rank)
    environment = host_environment(
        torch=_version("torch"),
        triton=_version("triton"),
        device=None if gpu is None else gpu.name,
        target=None if gpu is None else gpu.target,
    )
    return Here(environment, host_cpu(settings.cpu_capability), rank)


def here_of_facts(facts: Mapping[str, Any], host: Here) -> Here:
    """Return a process as the report of a run tells of it; what that does not tell is as on the host."""
    told = {name: facts[name] for name in _FACTS if isinstance(facts.get(name), str)}
    rank = facts.get("rank", [])
    cpu = facts.get("cpu")
    return Here(
        host.environment.stating(**told),
        cpu if isinstance(cpu, str) else host.cpu,
        None if rank is None else Rank(*rank) if rank else host.rank,
    )


def needs(manifest: Manifest, here: Here) -> Iterator[Difference]:
    """Yield what a bundle needs that is not here, what decides most in front."""
    made, ours = manifest.environment, here.environment
    if manifest.kind in ("pgo", "workload") and not manifest.kernels:
        return
    # torch's keys hold its version and Triton's, and the GPU's name; Triton's own hold its version and the target.
    pairs = [("torch", ours.torch, made.torch)] if manifest.kind in (*GRAPHS, "dynamo") else []
    pairs += [("triton", ours.triton, made.triton), ("Python", ours.python, made.python)]
    for part, one, other in pairs:
        is_compared = part != "Python" or manifest.kind == "dynamo"
        if is_compared and one is not None and other is not None and one != other:
            yield Difference(part, one, other)
    if made.device is not None and manifest.kind in (*GRAPHS, "dynamo"):
        if made.device != ours.device:
            yield Difference("GPU", ours.device or "none", made.device)
    elif made.target not in (None, ours.target) and (manifest.kernels or _is_gpu_graph(manifest)):
        yield Difference("GPU", ours.target or "none", made.target)
    if manifest.kind == "triton" and ".so" in manifest.variant:
        module = f"{sysconfig.get_config_var('EXT_SUFFIX')}-{platform.machine()}".strip(".-")
        if module != manifest.variant:
            yield Difference("Python", module, manifest.variant)
    if made.requires not in fulfilled(here.cpu, here.rank):
        owner = required_rank(made.requires)
        if owner is not None and owner != here.rank:
            yield Difference("rank", "not known" if here.rank is None else str(here.rank), str(owner))
        cpu = (made.requires or "").removesuffix(f"; {owner}")
        if cpu not in (here.cpu, str(owner)):
            yield Difference("CPU", here.cpu, cpu)


def _is_gpu_graph(manifest: Manifest) -> bool:
    """Whether a graph of a folder that held kernels of a GPU is for it: what is for a CPU says for which."""
    return manifest.kind in GRAPHS and manifest.environment.requires is None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
