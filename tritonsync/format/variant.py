"""Variants: what tells apart values of one key of torch's FX and AOTAutograd caches.

Torch keeps several values under one key, each for its guards. Two more things must agree before a value may be used,
and neither is in the key: the libdevice its kernels were linked with, and, where the value holds code for the CPU, the
CPU. Inductor writes the width of the CPU's vectors into the C++ it generates, so a value made for AVX-512 gives wrong
numbers on an AVX2 host, without an error.
"""

from __future__ import annotations

import hashlib
import json

from tritonsync.format.bundle import DEFAULT_VARIANT
from tritonsync.format.facts import ValueFacts

__all__ = ["UNKNOWN_CPU", "variant_of"]

#: Required by a value with CPU code whose maker is not known: no host has it, so nobody is offered the value.
UNKNOWN_CPU = "unknown:unknown"


def variant_of(facts: ValueFacts, cpu: str | None) -> tuple[str, str | None]:
    """Return the variant's name and what the reader's CPU must be.

    Args:
        facts: what the value says of itself.
        cpu: `machine:isa` of the host that made it, such as `x86_64:avx2`; None where it is not known.

    Returns:
        the variant, 16 hex digits, or `default` where nothing tells it apart; and the requirement, None for any CPU.
    """
    needs_cpu = facts.uses_cpp or "cpu" in facts.device_types
    requires = (cpu or UNKNOWN_CPU) if needs_cpu else None
    parts = [facts.guards, facts.extern_libs_key, requires or ""]
    if not any(parts):
        return DEFAULT_VARIANT, None
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()[:16], requires
