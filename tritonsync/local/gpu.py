"""The GPU of this host, as its driver names it; standard library only."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

__all__ = ["Gpu", "first_gpu"]

#: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h.
_CAPABILITY = (75, 76)


class Gpu(NamedTuple):
    """A GPU: its name, such as `NVIDIA H200`, and its target, such as `cuda:90`."""

    name: str
    target: str


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
