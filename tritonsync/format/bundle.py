"""A bundle in memory: what one key needs to start warm.

The values that PyTorch's TritonBundler works with (torch/_inductor/triton_bundler.py, 2.13) have their counterparts
here and in `kernel.py`, with the same content.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import re
from functools import cached_property

import msgspec

from tritonsync.errors import FormatError
from tritonsync.format.kernel import Kernel
from tritonsync.format.layout import AUTOTUNE, check_key, check_name, check_text, is_name

__all__ = [
    "CHANGING",
    "DEFAULT_VARIANT",
    "FOLDER",
    "GRAPHS",
    "KINDS",
    "ROOTS",
    "Bundle",
    "Digest",
    "Payload",
    "is_variant",
]

#: The kind of what lies in a cache folder of another library, see `folder.py`.
FOLDER = "folder"
#: The caches a bundle can belong to. Versions that do not know one pass over its bundles, except that `gc` up to 0.1.0
#: takes those of a kind it does not know for leftovers.
KINDS = ("fx_graph", "aot_autograd", "pgo", "dynamo", "triton", "workload", FOLDER)
#: Kinds whose values are graphs: pickles that may hold Triton bundles.
GRAPHS = ("fx_graph", "aot_autograd")
#: Kinds whose value changes under one key: their variants are times, and the newest counts. Up to 0.1.0, `dynamo` had
#: one bundle a key, `default`, which any that has a time goes before.
CHANGING = ("pgo", "dynamo", "workload", FOLDER)
#: Kinds that no list names: programs ask for them by a name, and get the newest.
ROOTS = ("workload", FOLDER)
DEFAULT_VARIANT = "default"

#: Of a value that belongs to one rank of a job, the end says which.
_GRAPH_VARIANT = re.compile(r"(default|[0-9a-f]{16})(-rank[0-9]{1,9}of[0-9]{1,9})?")
_TIME = re.compile(r"[0-9]{10}")


def is_variant(kind: str, variant: str) -> bool:
    """Whether a bundle of this kind can have this variant: what no writer makes is not looked at."""
    if variant == DEFAULT_VARIANT:
        return True
    if kind in CHANGING:
        return _TIME.fullmatch(variant) is not None
    if kind == "triton":  # the name of a GPU, or of a Python and a machine
        return is_name(variant) and variant == variant.strip(".-")
    return _GRAPH_VARIANT.fullmatch(variant) is not None or (kind in GRAPHS and variant == AUTOTUNE)


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """The size in bytes and the sha256 (64 hex digits) of a pack, or of a whole value."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Payload:
    """Named bytes of a bundle that are not a kernel: a value's skeleton, a profile, a list.

    Attributes:
        name: unique within the bundle.
        data: the bytes; not shown in the repr.
    """

    name: str
    data: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        check_name(self.name, "payload name")

    @cached_property
    def sha256(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)


@dataclasses.dataclass(frozen=True)
class Bundle:
    """What one key needs to start warm: kernels (possibly none) and payloads (possibly none).

    Attributes:
        kind: one of `KINDS`.
        key: the key in that cache, whole (up to 1,024 characters).
        variant: tells apart bundles of one key that serve different needs.
        kernels: sorted by (hash, device, content id); two with one hash may stand side by side, never mixed.
        payloads: sorted by name.
        guards: the guard expression under which the value may be used; empty for none.
        requires: what the reader's CPU and rank must be; None for any.
        compile_seconds: how long it took to make, as far as known.
        value: the whole value that skeleton and kernels make up; None where there is none.
    """

    kind: str
    key: str
    variant: str = DEFAULT_VARIANT
    kernels: tuple[Kernel, ...] = ()
    payloads: tuple[Payload, ...] = ()
    guards: str = ""
    requires: str | None = None
    compile_seconds: float = 0.0
    value: Digest | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FormatError(f"{self.kind!r} is no kind of bundle; these are: {', '.join(KINDS)}")
        check_key(self.key)
        check_text(self.guards, "guards")
        check_name(self.variant, "variant")
        if not 0 <= self.compile_seconds < math.inf:
            raise FormatError(f"{self.compile_seconds} seconds of compilation cannot be")
        kernels = sorted(set_of(self.kernels), key=kernel_order)
        payloads = sorted(self.payloads, key=lambda payload: payload.name)
        if any(a.name == b.name for a, b in itertools.pairwise(payloads)):
            raise FormatError(f"bundle {self.kind}/{self.key} holds a payload name twice")
        object.__setattr__(self, "kernels", tuple(kernels))
        object.__setattr__(self, "payloads", tuple(payloads))

    def payload(self, name: str) -> bytes | None:
        """Return the data of the payload of that name, or None."""
        return next((payload.data for payload in self.payloads if payload.name == name), None)


def kernel_order(kernel: Kernel) -> tuple[str, int, str]:
    """Sort key of kernels in bundles and manifests; no device sorts before device 0."""
    return (kernel.hash, -1 if kernel.device is None else kernel.device, kernel.content_id)


def set_of(kernels: tuple[Kernel, ...]) -> list[Kernel]:
    """Drop repeats: two graphs of one value often share a kernel."""
    return list({kernel_order(kernel): kernel for kernel in kernels}.values())
