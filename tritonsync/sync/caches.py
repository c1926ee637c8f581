"""The caches of this host that bundles come from and go to: Inductor's folder, and Triton's, wherever it lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from tritonsync.format.bundle import GRAPHS
from tritonsync.format.kernel import Kernel
from tritonsync.format.manifest import KernelEntry

__all__ = ["LocalCaches"]


@dataclasses.dataclass(frozen=True)
class LocalCaches:
    """Where the caches of this host are.

    Attributes:
        inductor: Inductor's cache folder.
        graph_kernels: the folder that torch keeps the kernels of graphs in, for a device index.
        loose_kernels: the same for kernels of no graph; None: kernels that are not kept by device.
    """

    inductor: Path
    graph_kernels: Callable[[int | None], Path]
    loose_kernels: Callable[[int | None], Path]

    @classmethod
    def at(cls, inductor: Path, triton: Path | None = None, *, by_device: bool = True) -> LocalCaches:
        """Take folders as they lie.

        Args:
            inductor: Inductor's cache folder.
            triton: the folder of kernels; None: `triton` inside Inductor's folder, as torch has it.
            by_device: whether torch keeps the kernels of each device in a folder of its own there; it does not where
                TRITON_CACHE_DIR names the folder.
        """
        root = inductor / "triton" if triton is None else triton
        if not by_device:
            return cls(inductor, lambda _: root, lambda _: root)
        return cls(
            inductor,
            # torch 2.15 keeps kernels for any device under `None`.
            lambda device: root / str(device),
            lambda device: root if device is None else root / str(device),
        )

    def folder_of(self, kernel: Kernel | KernelEntry, kind: str) -> Path:
        """Return the folder that the folder of this kernel belongs into, if it came in a bundle of that kind."""
        if kind in GRAPHS:
            return self.graph_kernels(kernel.device)
        return self.loose_kernels(kernel.device)
