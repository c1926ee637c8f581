"""What the key of a graph or of a kernel is made of: the parts that `tritonsync why` compares.

torch keeps in each FX value one line for each part of its key, `[<hash>] <name>: <text>` (`debug_lines` of
torch/_inductor/codecache.py, 2.11 and 2.13). They are some hundreds, so a manifest holds one digest for each group of
them, in a small payload that stands inline (`KEY_PARTS`): enough to find the bundle whose key is nearest; the lines
themselves are in its value. Readers that do not know the payload leave it alone. Of a Triton kernel the same is read
from the files in its folder (triton/compiler/compiler.py, 3.6 and 3.9).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from tritonsync.format.bundle import Payload
from tritonsync.format.kernel import Kernel
from tritonsync.format.manifest import Manifest

__all__ = [
    "KEY_PARTS",
    "Difference",
    "KeyParts",
    "Part",
    "differences",
    "files_in_traces",
    "groups_of_parts",
    "key_parts_of",
    "key_parts_payload",
    "parts_of_kernel",
    "parts_of_lines",
]

#: The payload that holds digests of a key's parts; it stands in the manifest.
KEY_PARTS = "key_parts.json"
#: Files whose digests one manifest holds, at most.
_MAX_SOURCES = 64
#: Differences that are told of one group of parts.
_MAX_OF_GROUP = 8
#: Characters of one side of a difference.
_SHOWN = 160
#: Characters of a part that are looked at for what to show of it: it may be a stranger's, of any length.
_COMPARED = 64 * 1024
#: What torch writes around the fields of a tensor.
_TENSOR, _END = "TensorMetadata(", ")"

_LINE = re.compile(r"\[([a-z2-7]{51,52})\] (\w+(?:\[[^\]\n]*\])?): ?(.*)", re.DOTALL)
_TRACE = re.compile(r'File "([^"\n]+)", line \d+')
#: Of Triton's source; with no more brackets in it than the engine is to remember while it looks for the last one.
_LOCATION = re.compile(r" ?loc\([^()]*(?:\([^()]*\)[^()]*){0,64}\)")
_FIRST_LINE = re.compile(r'^#loc\d* = loc\("([^"]+)":(\d+):', re.MULTILINE)
#: Where the addresses of a process stand in a text, it says nothing.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
#: Of a kernel's metadata, what Triton writes down of the result, or of the target, rather than of the key.
_RESULTS = frozenset(
    {"hash", "name", "shared", "tmem_size", "global_scratch_size", "global_scratch_align", "profile_scratch_size"}
    | {"profile_scratch_align", "extern_libs", "target", "triton_version", "arch", "backend_name", "warp_size"}
    | {"supported_fp8_dtypes", "deprecated_fp8_dot_operand_dtypes", "max_num_imprecise_acc_default"}
    | {"allowed_dot_input_precisions", "tensordesc_meta"}
)

#: Name of a group of parts -> how the names of its parts begin; what is first explains more than what follows.
_GROUPS = (
    ("torch", ("torch_version",)),
    ("gpu", ("system_info[device]", "target")),
    ("triton", ("system_info[version]", "triton_version")),
    ("derived", ("system_info[",)),
    ("code", ("gm", "source")),
    ("inputs", ("example_inputs[", "arguments")),
    ("kernels", ("user_defined_triton_source[",)),
    ("config", ("inductor_config", "custom_backend_codegen_configs", "option[")),
    (
        "passes",
        (
            "pre_grad_custom",
            "post_grad_custom",
            "joint_custom",
            "_pre_fusion_custom",
            "_post_fusion_custom",
            "_fuse_ddp_communication_passes",
            "custom_backend_passes",
            "_custom_partitioner_fn",
        ),
    ),
    ("call", ("fx_kwargs[", "inputs_to_check[")),
    ("settings", ("",)),
)
_WORDS = {
    "torch_version": "torch",
    "system_info[device]": "GPU",
    "target": "GPU target",
    "triton_version": "triton",
    "system_info[version]": "Triton or CUDA",
    "gm": "graph",
    "source": "source",
    "line": "first line in its file",
}
_PREFIXES = (
    ("inductor_config_comms[", "config comms."),
    ("inductor_config[", "config "),
    ("custom_backend_codegen_configs[", "config of backend "),
    ("example_inputs[", "input "),
    ("user_defined_triton_source[", "source of Triton kernel "),
    ("fx_kwargs[", ""),
    ("option[", ""),
)


@functools.lru_cache(maxsize=4096)
def _group_of(name: str) -> str:
    return next(group for group, starts in _GROUPS if name.startswith(starts))


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a key: its name, what tells it apart from others, and what it is in words."""

    name: str
    digest: str
    text: str = dataclasses.field(repr=False)

    @property
    def group(self) -> str:
        """The group it belongs to."""
        return _group_of(self.name)


@dataclasses.dataclass(frozen=True)
class KeyParts:
    """What a manifest says of the parts of its key.

    Attributes:
        groups: name of a group of parts -> 12 hex digits; empty in bundles that do not tell.
        sources: source files that the graph was traced from, as they are imported -> 16 hex digits of their sha256.
    """

    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Difference:
    """One part that differs: what it is called, and what it is here and there; None where it cannot be shown."""

    part: str
    here: str | None
    there: str | None


class _Stated(msgspec.Struct):
    groups: dict[str, str] = {}
    sources: dict[str, str] = {}


def parts_of_lines(lines: Iterable[object]) -> tuple[Part, ...]:
    """Return the parts that torch's lines tell of; what is no such line is left out."""
    found = (_LINE.fullmatch(line) for line in lines if isinstance(line, str))
    return tuple(Part(line[2], line[1], line[3]) for line in found if line is not None)


def groups_of_parts(parts: Iterable[Part]) -> dict[str, str]:
    """Return one digest, 12 hex digits, for each group of parts, as a manifest holds them."""
    hashes: dict[str, Any] = {}
    for part in parts:
        if part.group != "derived":
            told = f"{part.name} {part.digest}\n".encode(errors="surrogatepass")
            hashes.setdefault(part.group, hashlib.sha256()).update(told)
    return {group: found.hexdigest()[:12] for group, found in sorted(hashes.items())}


def key_parts_payload(groups: Mapping[str, str], sources: Mapping[str, str]) -> Payload | None:
    """Return the payload that holds them; None where there is nothing to hold."""
    if not groups:
        return None
    held = {"groups": dict(groups), "sources": dict(sorted(sources.items())[:_MAX_SOURCES])}
    return Payload(KEY_PARTS, json.dumps(held, sort_keys=True, separators=(",", ":")).encode())


def key_parts_of(manifest: Manifest) -> KeyParts:
    """Return what a manifest says of its key; nothing where it says nothing that can be read."""
    try:
        stated = msgspec.json.decode((manifest.inline or {}).get(KEY_PARTS, "{}"), type=_Stated)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return KeyParts()
    return KeyParts(stated.groups, stated.sources)


def files_in_traces(traces: Iterable[object]) -> frozenset[str]:
    """Return the paths of the files that stack traces name."""
    return frozenset(path for trace in {*traces} if isinstance(trace, str) for path in _TRACE.findall(trace))


def parts_of_kernel(kernel: Kernel) -> tuple[Part, ...]:
    """Return the parts of a Triton kernel's key that its folder tells of: source, options, target, version."""
    contents = {file.name: file.payload for file in kernel.files}
    return (*_stated(contents.get(f"{kernel.name}.json", b"")), *_source(contents.get(f"{kernel.name}.source", b"")))


def _stated(metadata: bytes) -> Iterator[Part]:
    try:
        facts = json.loads(metadata)
    except (ValueError, RecursionError):
        return
    if not isinstance(facts, dict):
        return
    target = facts.get("target")
    if isinstance(target, dict):
        yield _part("target", f"{target.get('backend')}:{target.get('arch')}")
    if "triton_version" in facts:
        yield _part("triton_version", str(facts["triton_version"]))
    for name in sorted(facts.keys() - _RESULTS):
        yield _part(f"option[{name}]", json.dumps(facts[name]))


def _source(text: bytes) -> Iterator[Part]:
    """Yield the code that Triton starts from, without where it stands: paths are no part of the key, its line is."""
    source = text.decode(errors="replace")
    if not source:
        return
    lines = (_LOCATION.sub("", line).rstrip() for line in source.splitlines() if not line.startswith("#"))
    yield _part("source", "\n".join(lines))
    begin = _FIRST_LINE.search(source)
    if begin is not None:
        yield Part("line", begin[2], f"{PurePath(begin[1]).name}:{begin[2]}")


def _part(name: str, text: str) -> Part:
    return Part(name, hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16], text)


def differences(here: Iterable[Part], there: Iterable[Part]) -> list[Difference]:
    """Return what differs, what explains most in front; nothing can be said of what only follows from the rest."""
    ours, theirs = ({part.name: part for part in parts} for parts in (here, there))
    of_group: dict[str, list[Difference]] = {}
    for part in (theirs | ours).values():
        one, other = ours.get(part.name), theirs.get(part.name)
        if part.group != "derived" and (one is None or other is None or one.digest != other.digest):
            of_group.setdefault(part.group, []).extend(_told(part, one, other))
    told: list[Difference] = []
    for group, _ in _GROUPS:
        found = of_group.get(group, [])
        told += found[:_MAX_OF_GROUP]
        if len(found) > _MAX_OF_GROUP:
            told.append(Difference(f"{len(found) - _MAX_OF_GROUP} more of the {group}", None, None))
    return told


def _told(part: Part, one: Part | None, other: Part | None) -> Iterator[Difference]:
    name = _cut(_word(part.name))
    if one is None or other is None:
        yield Difference(name, "none" if one is None else _cut(one.text), "none" if other is None else _cut(other.text))
    elif part.name in ("gm", "source") or part.name.startswith("user_defined_triton_source"):
        yield Difference(name, *_first_lines(one.text, other.text))
    elif part.name in ("torch_version", "system_info[version]"):
        yield Difference(name, None, None)  # digests of files; whoever knows the versions says them
    else:
        fields = list(_fields(name, one.text, other.text))
        yield from fields or [Difference(name, *_texts(one.text, other.text))]


def _word(name: str) -> str:
    if name in _WORDS:
        return _WORDS[name]
    for start, word in _PREFIXES:
        if name.startswith(start):
            return word + name.removeprefix(start).rstrip("]")
    return name


def _first_lines(one: str, other: str) -> tuple[str | None, str | None]:
    """Return the first line in which two texts differ."""
    for here, there in itertools.zip_longest(io.StringIO(one), io.StringIO(other), fillvalue=""):
        if here.rstrip("\n") != there.rstrip("\n"):
            return _cut(here.strip()) or "(ends)", _cut(there.strip()) or "(ends)"
    return None, None


def _fields(name: str, one: str, other: str) -> Iterator[Difference]:
    """Yield what differs of two tensors: dtype, shape, ..."""
    if max(len(one), len(other)) > _COMPARED:
        return
    ours, theirs = dict(_split(one)), dict(_split(other))
    for field in ours.keys() | theirs.keys() if ours and theirs else ():
        if ours.get(field) != theirs.get(field):
            yield Difference(f"{name} {_cut(field)}", _cut(ours.get(field, "none")), _cut(theirs.get(field, "none")))


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Yield names and values of `TensorMetadata(dtype=torch.float32, shape=torch.Size([2, 8]), ...)`."""
    begin = text.find(_TENSOR)
    if begin < 0 or not text.endswith(_END):
        return
    inside = text[begin + len(_TENSOR) : -len(_END)]
    depth, start = 0, 0
    for at, letter in enumerate(inside + ","):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            name, found, value = inside[start:at].partition("=")
            if found:
                yield name.strip(), value.removeprefix("torch.Size(").rstrip(")") if "Size" in value else value
            start = at + 1


def _texts(one: str, other: str) -> tuple[str | None, str | None]:
    shown = _cut(_ADDRESS.sub("", one[:_COMPARED])), _cut(_ADDRESS.sub("", other[:_COMPARED]))
    return (None, None) if shown[0] == shown[1] else shown


def _cut(text: str) -> str:
    flat = " ".join(text[:_COMPARED].split())
    return flat if len(flat) <= _SHOWN else flat[: _SHOWN - 1] + "…"
