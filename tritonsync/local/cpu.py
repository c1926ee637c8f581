"""What this host's CPU is to Inductor's C++ code, worked out without torch.

Generated C++ has the vector width baked in, and no cache key of torch holds it. The text here stands for the vector
instruction set that `pick_vec_isa()` chooses (torch/_inductor/cpu_vec_isa.py; 2.13, the same in 2.15), such as
`x86_64:avx512 avx512_vnni`. Torch also compiles a probe for each candidate; that a compiler is too old for the CPU is
the one thing that is not seen here.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable
from pathlib import Path

__all__ = ["NO_ISA", "cpu_text", "host_cpu"]

#: Stands where torch picks no vector instruction set.
NO_ISA = "none"

#: Torch's names, best first, and the flags in /proc/cpuinfo that torch asks the cpuinfo library for.
_AVX512 = frozenset({"avx512f", "avx512vl", "avx512bw", "avx512dq"})
_X86 = (
    ("avx512 avx512_vnni amx_tile", _AVX512 | {"avx512_vnni", "amx_tile"}),
    ("avx512 avx512_vnni", _AVX512 | {"avx512_vnni"}),
    ("avx512", _AVX512),
    ("avx2", frozenset({"avx2"})),
)
_SVE_LENGTH = Path("/proc/sys/abi/sve_default_vector_length")


def host_cpu(capability: str | None = None) -> str:
    """Return `<machine>:<instruction set>` of this host.

    Args:
        capability: the value of ATEN_CPU_CAPABILITY, with which users lower torch's choice; None: not set.
    """
    machine = platform.machine()
    if platform.system() == "Linux":
        return cpu_text(machine, _flags(), _sve_bits(), capability)
    if platform.system() == "Darwin":
        return f"{machine}:{'asimd' if platform.processor() == 'arm' else NO_ISA}"
    # No way to tell without a library: the host's name keeps its C++ code to itself.
    return f"{machine}:unknown on {platform.node()}"


def cpu_text(machine: str, flags: Iterable[str], sve_bits: int | None = None, capability: str | None = None) -> str:
    """Return the text for a Linux host.

    Torch calls all vector sets of arm64 `asimd`, whatever their width; as the width is what matters, `sve128` or
    `sve256` is added where torch uses SVE.

    Args:
        machine: as `uname -m` gives it.
        flags: the words of `flags` or `Features` in /proc/cpuinfo.
        sve_bits: length of an SVE vector in bits, if there is SVE.
        capability: the value of ATEN_CPU_CAPABILITY; None: not set. Torch ignores what it does not know.
    """
    has = frozenset(flags)
    candidates: list[str] = []
    if machine in ("x86_64", "AMD64"):
        candidates = [name for name, needed in _X86 if needed <= has]
    elif machine == "aarch64":
        sve = has & {"sve", "sve2"} and "bf16" in has
        candidates = [f"asimd sve{128 if sve_bits == 128 else 256}" if sve else "asimd"]
    elif machine == "ppc64le":
        candidates = ["vsx"]
    elif machine == "s390x":
        candidates = ["zvector"] if "vxe" in has else []
    if not candidates or capability == "default":
        return f"{machine}:{NO_ISA}"
    if capability in ("avx512", "avx2", "vsx", "zvector"):
        candidates = [name for name in candidates if capability in name] or candidates
    return f"{machine}:{candidates[0]}"


@functools.cache
def _flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            # One block a core; the first one speaks for all, and a kernel takes its time for the rest.
            for line in cpuinfo:
                name, _, text = line.partition(":")
                if name.strip().lower() in ("flags", "features"):
                    return frozenset(text.split())
    except OSError:
        pass
    return frozenset()


@functools.cache
def _sve_bits() -> int | None:
    try:
        return int(_SVE_LENGTH.read_text(encoding="ascii")) * 8
    except (OSError, ValueError):
        return None
