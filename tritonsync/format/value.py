"""Values of torch's caches as bundles, and back.

A value is what `FxGraphCache` or `AOTAutogradCache` writes into its folder: a pickle that may hold Triton bundles. Its
bundle has the kernels cut out as kernels, and one payload: `<stem>.skeleton`, or, where the value does not split,
`<stem>.pickle`, the value itself. Values of other caches are always whole.


Lossless split of pickled FX and AOTAutograd values into a skeleton and kernels, and back.

A value holds every file of every kernel it needs, as bytes objects of Triton bundles (`TritonBundle`,
torch/_inductor/triton_bundler.py, 2.13); AOTAutograd values made with `bundled_autograd_cache` hold one bundle a graph.
The split cuts those bytes out of the pickle where they stand and keeps the rest as it is, so that the join gives torch
byte for byte what it wrote. Nothing is unpickled. Static autotuners stay in the skeleton.

A skeleton is, in this order:

- the line `tritonsync skeleton 1`;
- a line of JSON, `{"size":s,"sha256":h,"cuts":[[kept,content_id,file],...]}`: size and sha256 of the whole value, and
  for each cut the number of kept bytes that precede it (since the last cut), and the file that belongs there, by the
  kernel's content id and the file's name;
- the kept bytes.

A file is cut out once. A second equal one, as when two graphs share a kernel, is kept: so no skeleton can blow up
beyond its own size and that of its kernels. A skeleton is no pickle, and must not be given to torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from tritonsync.errors import FormatError, ValueSplitError
from tritonsync.format.bundle import DEFAULT_VARIANT, GRAPHS, Bundle, Digest, Payload
from tritonsync.format.facts import ValueFacts, read_facts, variant_of
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.format.key_parts import key_parts_payload
from tritonsync.format.pack import MAX_FILE_SIZE
from tritonsync.format.pickle_reader import Instance, Reading, Span, read
from tritonsync.format.ranks import Rank, depends_on_rank

__all__ = [
    "SplitValue",
    "bundle_of_value",
    "facts_of_value",
    "has_value",
    "join",
    "split",
    "split_reading",
    "value_of_bundle",
]

_MAGIC = b"tritonsync skeleton 1\n"


@dataclasses.dataclass(frozen=True)
class SplitValue:
    """A value in parts.

    Attributes:
        skeleton: what is left, with notes of what was cut where; see the module's docstring.
        kernels: every kernel of every bundle in the value, each once.
    """

    skeleton: bytes = dataclasses.field(repr=False)
    kernels: tuple[Kernel, ...]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int
    sha256: str
    cuts: tuple[tuple[int, str, str], ...]


def split(value: bytes) -> SplitValue:
    """Split a pickled value; one without kernels becomes a skeleton without cuts.

    Raises:
        ValueSplitError: it cannot be read, or holds a name that cannot stand in a bucket. It can be stored whole.
    """
    return split_reading(value, read(value))


def split_reading(value: bytes, reading: Reading) -> SplitValue:
    """Split a value that was read already; see `split`."""
    kernels: dict[tuple[str, int | None, str], Kernel] = {}
    cuts: list[tuple[Span, str, str]] = []
    for kernel, spans in _bundled_kernels(value, reading):
        kernels.setdefault((kernel.hash, kernel.device, kernel.content_id), kernel)
        cuts.extend((spans[file.name], kernel.content_id, file.name) for file in kernel.files)
    cuts.sort(key=lambda cut: cut[0].start)
    header_cuts: list[tuple[int, str, str]] = []
    kept: list[memoryview] = []
    done: set[tuple[str, str]] = set()
    view, position = memoryview(value), 0
    for span, content_id, name in cuts:
        # A span before `position` was cut already: pickle stores one bytes object that two files share once.
        if (content_id, name) in done or span.start < position or span.start == span.stop:
            continue
        done.add((content_id, name))
        header_cuts.append((span.start - position, content_id, name))
        kept.append(view[position : span.start])
        position = span.stop
    kept.append(view[position:])
    header = _Header(len(value), hashlib.sha256(value).hexdigest(), tuple(header_cuts))
    return SplitValue(b"".join([_MAGIC, msgspec.json.encode(header), b"\n", *kept]), tuple(kernels.values()))


def join(skeleton: bytes, kernels: Iterable[Kernel]) -> bytes:
    """Return the value, byte for byte.

    Args:
        skeleton: from `split`.
        kernels: at least those of the value.

    Raises:
        ValueSplitError: the skeleton is not one, a kernel is missing, or the parts do not make up the value.
    """
    header, body = _parse(skeleton)
    files = {(kernel.content_id, file.name): file for kernel in kernels for file in kernel.files}
    parts: list[memoryview | bytes] = []
    position = 0
    for kept, content_id, name in header.cuts:
        file = files.pop((content_id, name), None)
        if file is None:
            shown = f"file {name[:80]!r} of kernel content {content_id[:80]!r}"
            raise ValueSplitError(f"{shown} is missing, or needed twice")
        parts += [body[position : position + kept], file.payload]
        position += kept
    parts.append(body[position:])
    if position > len(body) or sum(map(len, parts)) != header.size:
        raise ValueSplitError(f"skeleton and kernels do not make up the {header.size} bytes of the value")
    value = b"".join(parts)
    if hashlib.sha256(value).hexdigest() != header.sha256:
        raise ValueSplitError("skeleton and kernels make up another value than they were cut from")
    return value


def _parse(skeleton: bytes) -> tuple[_Header, memoryview]:
    end = skeleton.find(b"\n", len(_MAGIC))
    if not skeleton.startswith(_MAGIC) or end < 0:
        raise ValueSplitError("not a skeleton of version 1")
    line = skeleton[len(_MAGIC) : end]
    try:
        header = msgspec.json.decode(line, type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ValueSplitError(f"a skeleton whose header cannot be read: {str(exc)[:200]}") from exc
    if (
        header.size > MAX_FILE_SIZE
        or min((cut[0] for cut in header.cuts), default=0) < 0
        or msgspec.json.encode(header) != line
    ):
        raise ValueSplitError("a skeleton whose header is not as `split` writes it")
    return header, memoryview(skeleton)[end + 1 :]


def _bundled_kernels(value: bytes, reading: Reading) -> Iterable[tuple[Kernel, dict[str, Span]]]:
    """Yield each kernel of each bundle, and where its files stand in the value."""
    seen: set[int] = set()
    left = len(value)
    for made in reading.instances:
        if made.class_name != "TritonKernelArtifacts":
            continue
        name, device, artifacts = made.get("kernel_hash"), made.get("device"), made.get("artifacts")
        if not isinstance(name, str) or not isinstance(artifacts, list) or not _is_device(device):
            raise ValueSplitError("a kernel whose hash, device or files cannot be told")
        spans: dict[str, Span] = {}
        for artifact in artifacts:
            file_name, span = _artifact(artifact)
            left -= span.stop - span.start
            # References inside a pickle could name one file a million times over; torch never writes one twice.
            if id(artifact) in seen or file_name in spans:
                raise ValueSplitError(f"kernel {name[:80]!r} holds a file twice")
            if left < 0:
                raise ValueSplitError("the kernels of a value have more bytes than the value itself")
            seen.add(id(artifact))
            spans[file_name] = span
        if not spans:
            continue
        try:
            files = tuple(KernelFile(file, value[span.start : span.stop]) for file, span in spans.items())
            yield Kernel(name, device if isinstance(device, int) else None, files), spans
        except FormatError as exc:
            raise ValueSplitError(str(exc)) from exc


def _artifact(artifact: object) -> tuple[str, Span]:
    if isinstance(artifact, Instance) and artifact.class_name == "TritonKernelArtifact":
        name, payload = artifact.get("filename"), artifact.get("payload")
        if isinstance(name, str) and isinstance(payload, Span):
            return name, payload
    raise ValueSplitError("a kernel file whose name or bytes cannot be told")


def _is_device(device: object) -> bool:
    return device is None or type(device) is int


_STEMS = {"fx_graph": "fx_value", "aot_autograd": "aot_value", "pgo": "pgo_value", "dynamo": "dynamo_value"}


def bundle_of_value(
    kind: str,
    key: str,
    value: bytes,
    *,
    cpu: str | None = None,
    rank: Rank | None = None,
    variant: str = DEFAULT_VARIANT,
    facts: ValueFacts | None = None,
    sources: Mapping[str, str] | None = None,
) -> Bundle:
    """Make the bundle of one value.

    Args:
        kind: `fx_graph`, `aot_autograd`, `pgo` or `dynamo`.
        key: the value's key in that cache.
        value: its bytes.
        cpu: `machine:isa` of the host that made it; counts only for values that hold CPU code.
        rank: of the process that made it; counts only for values that may hold code for one rank.
        variant: for kinds whose values torch does not guard.
        facts: what `read_facts` said of the value, where the caller knows already.
        sources: files that the graph was traced from, and digests of them.
    """
    stem = _STEMS[kind]
    whole = Digest(size=len(value), sha256=hashlib.sha256(value).hexdigest())
    if kind not in GRAPHS:
        payload = Payload(f"{stem}.pickle", value)
        return Bundle(kind=kind, key=key, variant=variant, payloads=(payload,), value=whole)
    facts = facts or facts_of_value(value)
    variant, requires = variant_of(facts, cpu, rank)
    try:
        parts = split(value)
        kernels, payload = parts.kernels, Payload(f"{stem}.skeleton", parts.skeleton)
    except ValueSplitError:
        kernels, payload = (), Payload(f"{stem}.pickle", value)
    parts_of_key = key_parts_payload(facts.key_parts, sources or {})
    return Bundle(
        kind=kind,
        key=key,
        variant=variant,
        kernels=kernels,
        payloads=(payload,) if parts_of_key is None else (payload, parts_of_key),
        guards=facts.guards,
        requires=requires,
        compile_seconds=facts.compile_seconds,
        value=whole,
    )


def facts_of_value(value: bytes) -> ValueFacts:
    """Read what a value says of itself; of one that cannot be read, assume that it holds code for this CPU only."""
    try:
        return read_facts(value)
    except ValueSplitError:
        return ValueFacts(uses_cpp=True, is_ranked=depends_on_rank(value))


def has_value(bundle: Bundle) -> bool:
    """Whether the bundle holds a value of torch, and not only kernels or a list."""
    return bundle.kind in _STEMS and bundle.value is not None


def value_of_bundle(bundle: Bundle) -> bytes:
    """Return the value, byte for byte as torch made it.

    Raises:
        ValueSplitError: the bundle does not make up the value that its manifest states.
    """
    stem = _STEMS[bundle.kind]
    value = bundle.payload(f"{stem}.pickle")
    if value is None:
        skeleton = bundle.payload(f"{stem}.skeleton")
        if skeleton is None:
            raise ValueSplitError(f"bundle {bundle.kind}/{bundle.key} holds no value")
        value = join(skeleton, bundle.kernels)
    if bundle.value != Digest(size=len(value), sha256=hashlib.sha256(value).hexdigest()):
        raise ValueSplitError(f"bundle {bundle.kind}/{bundle.key} does not make up the value that its manifest states")
    return value
