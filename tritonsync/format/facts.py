"""What a value of torch says of itself, read without running it.

Values are `CompiledFxGraph` (FX cache) and `AOTAutogradResult` or `BundledAOTAutogradResult` (AOTAutograd cache) as
torch 2.11 to 2.15 pickle them. The classes are found by name; nothing of torch is imported.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping

from tritonsync.errors import ValueSplitError
from tritonsync.format.bundle import DEFAULT_VARIANT
from tritonsync.format.key_parts import Part, groups_of_parts, parts_of_lines
from tritonsync.format.pickle_reader import Instance, Reading, read
from tritonsync.format.ranks import Rank, depends_on_rank, ranked_requirement, ranked_variant

__all__ = [
    "UNKNOWN_CPU",
    "ValueFacts",
    "facts_of_reading",
    "key_parts_of_value",
    "read_facts",
    "variant_of",
    "why_unfit",
]

#: Name of the file that Inductor writes a kernel's source to: base32 of a sha256 (`code_hash` of codecache.py, 2.13).
_KERNEL_SOURCE = re.compile(r"(?<![a-z2-7])[a-z2-7]{52}\.py(?![A-Za-z0-9_])")
_HEX64 = re.compile(r"[0-9a-f]{64}")
#: Source code that the reader's own C++ compiler will compile: CPU kernels, and the C++ wrapper.
_CPP_CALLS = ("async_compile.cpp", "CppWrapperCodeCache")
#: Source code that chooses among kernels when it runs. torch fails to load it again: `MultiKernelCall.cache_file_path`
#: asks kernels for a source that those from a cache do not have (torch/_inductor/codegen/multi_kernel.py, 2.13).
_MULTI_KERNEL = (b"async_compile.multi_kernel(", b"async_compile.size_hint_multi_kernel(")
_MAX_SECONDS = 10**9
#: A value holds a forward and a backward graph at most; a hostile one could name one large text in a million graphs.
_MAX_GRAPHS = 64


@dataclasses.dataclass(frozen=True)
class ValueFacts:
    """What decides who may use a value, and what belongs to it.

    Attributes:
        guards: the guard expression of the whole value; empty for none.
        extern_libs_key: what torch says of the libdevice that the kernels were linked with (2.13 and later); empty for
            none.
        device_types: `cuda`, `cpu`, ... of all graphs in the value.
        uses_cpp: whether it holds code that was generated for a CPU, or code that could not be looked into.
        is_ranked: whether it may hold code for one rank of a job only (see `ranks.py`).
        compile_seconds: how long torch says it took; 0 if it does not.
        static_kernels: hashes of the kernels that static autotuners launch, in order.
        fx_graphs: for AOTAutograd values that point to FX values: (key, exact guard text), forward first.
        kernel_sources: base names of the kernel `.py` files named in the value.
        kernel_hashes: hashes of all kernels, bundled or named by a static autotuner.
        key_parts: digests of the parts of an FX value's own key (see `key_parts.py`); empty where it does not say.
    """

    guards: str = ""
    extern_libs_key: str = ""
    device_types: frozenset[str] = frozenset()
    uses_cpp: bool = False
    is_ranked: bool = False
    compile_seconds: float = 0.0
    static_kernels: tuple[str, ...] = ()
    fx_graphs: tuple[tuple[str, str], ...] = ()
    kernel_sources: frozenset[str] = frozenset()
    kernel_hashes: frozenset[str] = frozenset()
    key_parts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_facts(value: bytes) -> ValueFacts:
    """Read the facts of a pickled FX or AOTAutograd value.

    Raises:
        ValueSplitError: it is not one, or not in a form that is known.
    """
    return dataclasses.replace(facts_of_reading(read(value)), is_ranked=depends_on_rank(value))


def why_unfit(value: bytes) -> str | None:
    """Say why a value, or its skeleton, is of no use to anybody, whoever made it; None where it is."""
    if any(call in value for call in _MULTI_KERNEL):
        return "it was made with triton.multi_kernel, which torch cannot load again"
    return None


def facts_of_reading(reading: Reading) -> ValueFacts:
    """Return the facts of a value that was read already, but for `is_ranked`; see `read_facts`."""
    root = reading.root
    if not isinstance(root, Instance) or not isinstance(root.state, dict) or "guards_expr" not in root.state:
        raise ValueSplitError("neither an FX graph value nor an AOTAutograd value of torch")
    graphs = [made for made in reading.instances if made.class_name == "CompiledFxGraph"]
    if len(graphs) > _MAX_GRAPHS:
        raise ValueSplitError(f"a value of {len(graphs)} graphs")
    fx_graphs, opaque = ((), False) if root in graphs else _aot_parts(root)
    static = tuple(dict.fromkeys(_static_kernels(reading)))
    bundled = [made.get("kernel_hash") for made in reading.instances if made.class_name == "TritonKernelArtifacts"]
    sources = [_text(graph, "source_code") for graph in graphs]
    return ValueFacts(
        guards=_text(root, "guards_expr"),
        extern_libs_key=",".join(sorted({_text(graph, "extern_libs_key") for graph in graphs} - {""})),
        device_types=frozenset(device for graph in graphs for device in _device_types(graph)),
        uses_cpp=opaque or any(call in source for source in sources for call in _CPP_CALLS),
        compile_seconds=_seconds(root),
        static_kernels=static,
        fx_graphs=fx_graphs,
        kernel_sources=frozenset(
            name for text in reading.texts if ".py" in text for name in _KERNEL_SOURCE.findall(text)
        ),
        kernel_hashes=frozenset([*static, *(name for name in bundled if isinstance(name, str))]),
        key_parts=groups_of_parts(parts_of_lines(_key_lines(root))),
    )


def key_parts_of_value(value: bytes) -> tuple[Part, ...]:
    """Return the parts of an FX value's key, as torch wrote them into it; empty where it did not.

    Raises:
        ValueSplitError: it is no value of torch, or not in a form that is known.
    """
    root = read(value).root
    return parts_of_lines(_key_lines(root)) if isinstance(root, Instance) else ()


def _key_lines(root: Instance) -> list[object]:
    """Return the lines; only a value that was kept under a key of its own has them (torch/_inductor/compile_fx.py)."""
    lines = root.get("_fx_graph_cache_debug_lines")
    return lines if isinstance(lines, list) else []


def _aot_parts(root: Instance) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Return the FX graphs that forward and backward point to, and whether one of them is neither that nor a graph.

    An output that is no `CompiledFxGraph` (`RegionalOutputCode` of 2.13) holds its graphs as pickles inside bytes.
    """
    found, opaque = [], False
    for part in (root.get("compiled_fw"), root.get("compiled_bw")):
        if part is None:
            continue
        if not isinstance(part, Instance):
            raise ValueSplitError("an AOTAutograd value whose graphs cannot be told")
        info, result = part.get("fx_graph_cache_info"), part.get("result")
        if isinstance(info, tuple) and info and isinstance(info[0], str):
            found.append((_clean(info[0]), _text(part, "fx_graph_guard_expr")))
        elif not isinstance(result, Instance) or result.class_name != "CompiledFxGraph":
            opaque = True
    return tuple(found), opaque or root.get("compiled_fw") is None


def _static_kernels(reading: Reading) -> Iterator[str]:
    """Yield the folder names of the kernels that static autotuners launch.

    `StaticallyLaunchedCudaKernel.hash` is hexadecimal; Triton's folders have the same digits in base 32
    (`triton_hash_to_path_key` of torch/_inductor/runtime/triton_heuristics.py, 2.13).
    """
    for made in reading.instances:
        name = made.get("hash")
        if made.class_name.startswith("StaticallyLaunched") and isinstance(name, str) and _HEX64.fullmatch(name):
            yield base64.b32encode(bytes.fromhex(name)).decode().rstrip("=")


def _device_types(graph: Instance) -> list[str]:
    """Return the items of the `OrderedSet`, which pickles as a call with a list."""
    devices = graph.get("device_types")
    args = devices.args if isinstance(devices, Instance) else None
    items = args[0] if isinstance(args, tuple) and len(args) == 1 else devices
    if not isinstance(items, list):
        raise ValueSplitError("a graph whose device types cannot be told")
    names = [item for item in items if isinstance(item, str)]
    if len(names) != len(items):
        raise ValueSplitError("a graph whose device types are no names")
    return [_clean(name) for name in names]


def _seconds(root: Instance) -> float:
    """Add up torch's own measurements, in nanoseconds there."""
    names = ("_time_taken_ns", "forward_time_taken_ns", "backward_time_taken_ns")
    times = [root.get(name) for name in names]
    seconds = sum(time / 1e9 for time in times if isinstance(time, int) and 0 <= time < _MAX_SECONDS * 10**9)
    return round(seconds, 3)


def _text(made: Instance, attribute: str) -> str:
    """Return an attribute that is text or None."""
    text = made.get(attribute)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueSplitError(f"{attribute} of a value is no text")
    return _clean(text)


def _clean(text: str) -> str:
    """Refuse text that no manifest can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ValueSplitError("a text of a value is not Unicode") from exc
    return text


#: Required by a value with CPU code whose maker is not known: no host has it, so nobody is offered the value.
UNKNOWN_CPU = "unknown:unknown"


def variant_of(facts: ValueFacts, cpu: str | None, rank: Rank | None = None) -> tuple[str, str | None]:
    """Return the variant's name and what the reader's CPU and rank must be.

    Args:
        facts: what the value says of itself.
        cpu: `machine:isa` of the host that made it, such as `x86_64:avx2`; None where it is not known.
        rank: of the process that made it; None where it is not known.

    Returns:
        the variant, 16 hex digits, or `default` where nothing tells it apart, and its owner if it has one; and the
        requirement, None for any CPU and rank.
    """
    needs_cpu = facts.uses_cpp or "cpu" in facts.device_types
    requires = (cpu or UNKNOWN_CPU) if needs_cpu else None
    parts = [facts.guards, facts.extern_libs_key, requires or ""]
    digest = hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()[:16]
    variant = digest if any(parts) else DEFAULT_VARIANT
    if not facts.is_ranked:
        return variant, requires
    return ranked_variant(variant, rank), ranked_requirement(requires, rank)
