"""The values that the bundler works with.

They hold what the values of PyTorch's TritonBundler hold (torch/_inductor/triton_bundler.py, 2.13): its kernel artifact
is `KernelFile`, its kernel artifacts are `Kernel`, and the others are here.
"""

from __future__ import annotations

import dataclasses

from tritonsync.format.kernel import Kernel

__all__ = ["BundleEntry", "BundleMetadata", "StaticAutotuner", "TritonBundle"]


@dataclasses.dataclass(frozen=True)
class BundleEntry:
    """A note that a kernel was compiled: enough to find it on disk later.

    Attributes:
        kernel_hash: Triton's name of the kernel's folder.
        device: index of the device it was compiled for, or None for any.
        directory: the folder that holds the kernel's folder.
    """

    kernel_hash: str
    device: int | None
    directory: str


@dataclasses.dataclass(frozen=True)
class StaticAutotuner:
    """An autotuner whose kernels are launched without Triton; its binaries are kernels of the same bundle.

    Attributes:
        cache_key: what Inductor looks it up by.
        kernel_name: the generated kernel function.
        kernel: the pickled autotuner, opaque here; not shown in the repr.
    """

    cache_key: str
    kernel_name: str
    kernel: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class TritonBundle:
    """All kernels and static autotuners of one compile."""

    kernels: tuple[Kernel, ...] = ()
    static_autotuners: tuple[StaticAutotuner, ...] = ()


@dataclasses.dataclass(frozen=True)
class BundleMetadata:
    """Names for people: of the kernels that were collected or written, and of the static autotuners."""

    cached_kernel_names: tuple[str, ...] = ()
    statically_launched_kernel_names: tuple[str, ...] = ()
