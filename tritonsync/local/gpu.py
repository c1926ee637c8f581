"""The GPUs of this host, without torch: asking makes no context, and needs no program.

All of the host's: NVIDIA's driver answers through its management library (NVML), AMD's through the topology that its
kernel module shows. The one that this process would use: the driver itself, which heeds CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Gpu", "Gpus", "amd_gpus", "first_gpu", "host_gpus", "nvidia_gpus"]

_NVML = "libnvidia-ml.so.1"
#: Long enough for every name and version (nvml.h: NVML_DEVICE_NAME_V2_BUFFER_SIZE is 96).
_TEXT = 96
_KFD = Path("/sys/class/kfd/kfd/topology/nodes")
_AMDGPU = Path("/sys/module/amdgpu/version")


#: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h.
_CAPABILITY = (75, 76)


class Gpu(NamedTuple):
    """A GPU: its name, such as `NVIDIA H200`, and its target, such as `cuda:90`."""

    name: str
    target: str


@dataclasses.dataclass(frozen=True)
class Gpus:
    """What is there.

    Attributes:
        names: of the models, each once, sorted; such as `NVIDIA H200`, or `gfx942`.
        driver: its version; None without one.
    """

    names: tuple[str, ...] = ()
    driver: str | None = None


@functools.cache
def host_gpus() -> Gpus:
    """Return the GPUs of this host; what cannot be asked is not there."""
    found = nvidia_gpus()
    return found if found.driver is not None else amd_gpus()


def nvidia_gpus(library: str = _NVML) -> Gpus:
    """Ask NVIDIA's driver.

    Args:
        library: the name or path of NVML.
    """
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInit_v2() != 0:
            return Gpus()
    except (OSError, AttributeError):
        return Gpus()
    try:
        text = ctypes.create_string_buffer(_TEXT)
        driver = text.value.decode(errors="replace") if nvml.nvmlSystemGetDriverVersion(text, _TEXT) == 0 else None
        count = ctypes.c_uint()
        names: set[str] = set()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0:
            for index in range(count.value):
                device = ctypes.c_void_p()
                if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0 and (
                    nvml.nvmlDeviceGetName(device, text, _TEXT) == 0
                ):
                    names.add(text.value.decode(errors="replace"))
        return Gpus(tuple(sorted(names)), driver)
    except AttributeError:  # a library of that name that is none
        return Gpus()
    finally:
        nvml.nvmlShutdown()


def amd_gpus(topology: Path = _KFD, version: Path = _AMDGPU) -> Gpus:
    """Ask AMD's kernel module: architectures for names, as LLVM calls them.

    Args:
        topology: the folder of its nodes; those of CPUs have no architecture.
        version: the file with the version of a driver that was installed; the kernel's own has that of the kernel.
    """
    names: set[str] = set()
    try:
        for node in topology.iterdir():
            lines = (node / "properties").read_text().splitlines()
            target = int(_value(lines, "gfx_target_version"))
            if target:
                # Two decimal digits each: 90402 is gfx942, 90010 is gfx90a.
                names.add(f"gfx{target // 10000}{target // 100 % 100:x}{target % 100:x}")
    except (OSError, ValueError):
        return Gpus()
    if not names:
        return Gpus()
    try:
        driver = version.read_text().strip()
    except OSError:
        driver = os.uname().release
    return Gpus(tuple(sorted(names)), driver)


def _value(lines: Sequence[str], name: str) -> str:
    return next((line.split()[1] for line in lines if line.startswith(f"{name} ")), "0")


def first_gpu(library: str = "libcuda.so.1") -> Gpu | None:
    """Return the first GPU that this process may see, CUDA_VISIBLE_DEVICES heeded; None for none. Makes no context.

    Args:
        library: the driver's.
    """
    try:
        driver = ctypes.CDLL(library)
        device, name, numbers = ctypes.c_int(), ctypes.create_string_buffer(256), (ctypes.c_int(), ctypes.c_int())
        failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
        failed = failed or driver.cuDeviceGetName(name, len(name), device)
        for attribute, number in zip(_CAPABILITY, numbers, strict=True):
            failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    except (OSError, AttributeError):  # no driver, or none that knows these
        return None
    if failed:
        return None
    return Gpu(name.value.decode(errors="replace"), f"cuda:{numbers[0].value}{numbers[1].value}")
