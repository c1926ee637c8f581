"""What a session must know of the program it is in, and cannot know without torch or Triton."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tritonsync.format.manifest import Environment
from tritonsync.local.cpu import host_cpu
from tritonsync.local.inductordir import default_inductor_dir
from tritonsync.local.tritondir import default_triton_dir
from tritonsync.settings import Settings
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.environment import host_environment

__all__ = ["Host", "plain_host"]


@dataclasses.dataclass(frozen=True)
class Host:
    """Asked whenever it matters: a program may change its caches while it runs.

    Attributes:
        caches: the folders that torch and Triton use.
        cpu: `machine:isa` of this host, as torch sees it.
        environment: for manifests.
    """

    caches: Callable[[], LocalCaches]
    cpu: Callable[[], str]
    environment: Callable[[], Environment]


def plain_host(settings: Settings) -> Host:
    """Return what holds for a program without torch."""
    inductor = default_inductor_dir(settings.inductor_dir)
    triton = default_triton_dir(settings.triton_dir)
    caches = LocalCaches(inductor, lambda _: triton, lambda _: triton)
    return Host(lambda: caches, lambda: host_cpu(settings.cpu_capability), host_environment)
