"""The CPU as Inductor's C++ code sees it."""

from __future__ import annotations

import platform
import re

import pytest

from tests.kernels import Upstream
from tritonsync.local.cpu import NO_ISA, cpu_text, host_cpu

AVX512 = "avx2 avx512f avx512vl avx512bw avx512dq"


def expected(picked: str) -> str:
    """Bring torch's answer into our form."""
    return f"{platform.machine()}:{NO_ISA if picked == 'INVALID_VEC_ISA' else picked}"


def ours(capability: str | None) -> str:
    return re.sub(" sve[0-9]+$", "", host_cpu(capability))  # torch calls both widths of SVE by one name


def test_this_host_is_what_torch_takes_it_for(upstream: Upstream) -> None:
    """For each value of ATEN_CPU_CAPABILITY, those that torch does not know included."""
    capabilities = [None, "default", "avx2", "avx512", "vsx", "AVX2", "nonsense", ""]
    picked = upstream("isa", capabilities)
    assert [ours(capability) for capability in capabilities] == [expected(text) for text in picked]


@pytest.mark.slow
def test_torchs_own_probes_change_nothing(upstream: Upstream) -> None:
    """With a compiler that knows this CPU, torch's trial compiles confirm the answer."""
    assert ours(None) == expected(upstream("probed_isa"))


@pytest.mark.parametrize(
    ("machine", "flags", "capability", "text"),
    [
        ("x86_64", "sse2", None, "none"),
        ("x86_64", "avx2", None, "avx2"),
        ("x86_64", "avx2 avx512f", None, "avx2"),
        ("x86_64", AVX512, None, "avx512"),
        ("x86_64", f"{AVX512} avx512_vnni", None, "avx512 avx512_vnni"),
        ("x86_64", f"{AVX512} avx512_vnni amx_tile", None, "avx512 avx512_vnni amx_tile"),
        ("x86_64", f"{AVX512} amx_tile", None, "avx512"),
        ("x86_64", f"{AVX512} avx512_vnni amx_tile", "avx512", "avx512 avx512_vnni amx_tile"),
        ("x86_64", f"{AVX512} avx512_vnni", "avx2", "avx2"),
        ("x86_64", "avx2", "avx512", "avx2"),
        ("x86_64", AVX512, "default", "none"),
        ("aarch64", "asimd", None, "asimd"),
        ("aarch64", "asimd", "default", "none"),
        ("ppc64le", "", None, "vsx"),
        ("s390x", "vx vxe", None, "zvector"),
        ("s390x", "vx", None, "none"),
        ("riscv64", "", None, "none"),
    ],
)
def test_other_hosts(machine: str, flags: str, capability: str | None, text: str) -> None:
    """Hosts that are not at hand, by their flags."""
    assert cpu_text(machine, flags.split(), None, capability) == f"{machine}:{text}"


def test_widths_of_sve_are_told_apart() -> None:
    """Code for 256 bits is wrong on 128, and NEON is neither; torch needs bf16 to use SVE."""
    flags = ["asimd", "sve", "bf16"]
    texts = [cpu_text("aarch64", flags, 256), cpu_text("aarch64", flags, 128), cpu_text("aarch64", ["asimd", "sve"])]
    assert texts == ["aarch64:asimd sve256", "aarch64:asimd sve128", "aarch64:asimd"]


def test_a_host_that_cannot_be_looked_into_shares_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc/cpuinfo the host's name stands in."""
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert host_cpu() == f"{platform.machine()}:unknown on {platform.node()}"
