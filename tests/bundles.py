"""Small bundles for tests that do not care what a kernel computes."""

from __future__ import annotations

import json

from tritonsync.format.bundle import Bundle, Payload
from tritonsync.format.kernel import Kernel, KernelFile

HASHES = [f"{letter * 51}A" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]


def make_kernel(number: int = 0, build: str = "one", device: int | None = 0) -> Kernel:
    """Make a finished kernel in stored form; another `build` has the same hash and other bytes."""
    name = f"kernel_{number}"
    members = [f"{name}.cubin", f"{name}.json", f"{name}.ttir"]
    group = {"child_paths": {member: f"[REPLACE]/{member}" for member in members}}
    facts = {"name": name, "num_warps": 4, "shared": len(build), "build": build}
    return Kernel(
        hash=HASHES[number],
        device=device,
        files=(
            KernelFile(members[0], f"binary of {build} {number}".encode() * 100),
            KernelFile(members[1], json.dumps(facts).encode()),
            KernelFile(members[2], f"text of {build} {number}".encode() * 50),
            KernelFile(f"__grp__{name}.json", json.dumps(group).encode()),
        ),
    )


def make_bundle(key: str = "key", *, kernels: int = 3, build: str = "one", variant: str = "default") -> Bundle:
    """Make a bundle of kind `workload`-like freedom: kernels and one payload, no value of torch."""
    return Bundle(
        kind="fx_graph",
        key=key,
        variant=variant,
        kernels=tuple(make_kernel(number, build) for number in range(kernels)),
        payloads=(Payload("fx_value.pickle", f"value of {build}".encode()),),
    )


def make_value(source: str = "", note: str = "") -> bytes:
    """Make what torch could have pickled of a GPU graph without kernels: its source code, and a text beside it."""
    parts = {"guards_expr": b"N", "source_code": _text(source), "device_types": b"]" + _text("cuda") + b"a"}
    state = b"".join(_text(name) + part for name, part in {**parts, "note": _text(note)}.items())
    maker = _text("torch._inductor.output_code") + _text("CompiledFxGraph") + b"\x93"
    return b"\x80\x04" + maker + b")\x81}(" + state + b"ub."


def _text(text: str) -> bytes:
    """A string as pickle writes it."""
    data = text.encode()
    return b"X" + len(data).to_bytes(4, "little") + data
