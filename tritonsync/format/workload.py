"""The list of bundles that one run used, so that the next start can fetch them before they are asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

import msgspec

from tritonsync.errors import FormatError
from tritonsync.format.bundle import KINDS, ROOTS, Bundle, Payload, is_variant, kernel_order
from tritonsync.format.kernel import Kernel
from tritonsync.format.layout import check_key, check_name, workload_key
from tritonsync.format.manifest import Manifest

__all__ = [
    "LIST",
    "MAX_PART",
    "Workload",
    "WorkloadEntry",
    "bundle_of_part",
    "bundle_of_workload",
    "checked_path",
    "in_parts",
    "is_part",
    "path_id",
    "workload_of_manifest",
]

#: The payload that holds the list; small, so it stands in the manifest.
LIST = "workload.json"
#: How variants of bundles of many kernels begin.
_PART = "part-"
#: Kernels of no graph are packed up to so many bytes. One such bundle is in memory at a time, three times: its files,
#: its pack, and what is being sent. It also keeps each manifest, which names every file, far below what readers accept.
MAX_PART = 8 * 1024 * 1024
#: A run uses some hundreds of bundles; what lists more is not read.
MAX_ENTRIES = 50_000


class WorkloadEntry(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One bundle: its kind, its key (whole), and the variant that was used."""

    kind: str
    key: str
    variant: str


class Workload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run used.

    Attributes:
        inductor_dir: the writer's Inductor folder, whose path its values hold; for people, so without a user's name.
        entries: sorted.
        path_id: tells whether another folder has the very same path, see `path_id`; None in buckets written before.
        refused: entries that a list from the bucket holds and that cannot be used; they are not among `entries`.
        refusal: how many they are, and what is wrong with the first.
    """

    inductor_dir: str
    entries: tuple[WorkloadEntry, ...]
    path_id: str | None = None
    refused: int = 0
    refusal: str = ""

    def is_made_in(self, inductor_dir: str) -> bool:
        """Whether the writer's Inductor folder has this path."""
        return self.inductor_dir == inductor_dir if self.path_id is None else self.path_id == path_id(inductor_dir)


def path_id(path: str) -> str:
    """Return the first 16 hex digits of sha256 over a path: enough to compare it, without naming it."""
    return hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:16]


#: Of a JSON document, what tells where the items of a list begin and end. A string without an end is one token, so that
#: the search takes one pass whatever stands there.
_TOKEN = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[\]{},]', re.DOTALL)


class _Frame(msgspec.Struct):
    """The document without the items of its list."""

    inductor_dir: str
    entries: tuple[()]
    path_id: str | None = None


def bundle_of_workload(name: str, workload: Workload, kernels: tuple[Kernel, ...] = ()) -> Bundle:
    """Make the bundle of a workload, with the kernels that belong to no listed bundle.

    Raises:
        FormatError: the folder's path is not UTF-8, or the workload lists more than `MAX_ENTRIES`.
    """
    checked_path(workload.inductor_dir)
    if len(workload.entries) > MAX_ENTRIES:
        raise FormatError(f"workload {name}: {len(workload.entries)} entries; {MAX_ENTRIES} are allowed")
    entries = tuple(sorted(set(workload.entries)))
    ordered = msgspec.structs.replace(workload, entries=entries, refused=0, refusal="")
    payload = Payload(LIST, msgspec.json.encode(ordered))
    return Bundle(kind="workload", key=workload_key(name), kernels=kernels, payloads=(payload,))


def in_parts(kernels: Iterable[Kernel]) -> Iterator[tuple[Kernel, ...]]:
    """Group kernels, as they come, into parts of at most `MAX_PART` bytes (or one kernel).

    The last part belongs into the bundle of the workload, each other one into a bundle of its own: `bundle_of_part`.
    """
    part: list[Kernel] = []
    left = MAX_PART
    for kernel in kernels:
        size = sum(file.size for file in kernel.files)
        if part and size > left:
            yield tuple(part)
            part, left = [], MAX_PART
        part.append(kernel)
        left -= size
    if part:
        yield tuple(part)


def bundle_of_part(kernels: tuple[Kernel, ...]) -> Bundle:
    """Make a bundle of kernels that belong to no graph and are too many for the bundle of their workload.

    It lies under the hash of its first kernel, `triton/<hash>`, in a variant of its own, made of the content: there it
    is in nobody's way who looks for that one kernel.
    """
    ordered = sorted(kernels, key=kernel_order)
    digest = hashlib.sha256("\n".join(map(str, map(kernel_order, ordered))).encode()).hexdigest()
    return Bundle(kind="triton", key=ordered[0].hash, variant=f"{_PART}{digest[:16]}", kernels=kernels)


def is_part(entry: WorkloadEntry) -> bool:
    """Return whether an entry is a bundle of many kernels of no graph, rather than of the one that its key names."""
    return entry.kind == "triton" and entry.variant.startswith(_PART)


def checked_path(path: str) -> str:
    """Return the path of a cache folder if a list can name it.

    Raises:
        FormatError: it is not UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        raise FormatError(
            f"the path of the cache folder, {path!a}, is not UTF-8, so no workload can name it; use another folder"
        ) from exc
    return path


def workload_of_manifest(manifest: Manifest) -> Workload:
    """Read the list of a workload's bundle, which stands in its manifest; what cannot be used of it is counted.

    Raises:
        FormatError: it is not there, or is no such list.
    """
    frame, items = _taken_apart((manifest.inline or {}).get(LIST, ""))
    if len(items) > MAX_ENTRIES:
        raise FormatError(f"workload {manifest.key}: more than {MAX_ENTRIES} entries, which are allowed")
    try:
        document = msgspec.json.decode(frame, type=_Frame)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise FormatError(f"workload {manifest.key}: {LIST} is not a list of bundles: {str(exc)[:200]}") from exc
    entries: list[WorkloadEntry] = []
    refusals: list[str] = []
    for item in items:
        try:
            entries.append(_entry(item))
        except FormatError as exc:  # noqa: PERF203 - each may fail by itself
            refusals.append(str(exc))
    refusal = ""
    if refusals:
        refusal = f"{len(refusals)} entries of workload {manifest.key} are left out; the first: {refusals[0]}"
    return Workload(
        inductor_dir=document.inductor_dir,
        entries=tuple(entries),
        path_id=document.path_id,
        refused=len(refusals),
        refusal=refusal,
    )


def _taken_apart(text: str) -> tuple[str, list[str]]:
    """Cut the items out of the list in a JSON object; return what is left, and the items.

    Not by a parser of JSON: that gives up the whole document where one item is nested too deeply, or is none.
    """
    depth, first, start = 0, -1, -1
    items: list[str] = []
    for token in _TOKEN.finditer(text):
        kind = token[0][0]
        if kind in "[{":
            depth += 1
            if depth == 2 and kind == "[" and first < 0:
                first = start = token.end()
        elif depth == 2 and first >= 0 and kind in ",]":
            items.append(text[start : token.start()])
            start = token.end()
            if kind == "]" or len(items) > MAX_ENTRIES:
                return text[:first] + text[token.start() :], [] if items == [""] else items
        elif kind in "]}":
            depth -= 1
    return text, []


def _entry(raw: str) -> WorkloadEntry:
    """Read one entry.

    Raises:
        FormatError: it is none, or nothing in a bucket or in a cache folder can be called so.
    """
    try:
        entry = msgspec.json.decode(raw, type=WorkloadEntry)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise FormatError(f"an entry that is no bundle: {str(exc)[:200]}") from exc
    if entry.kind not in KINDS or entry.kind in ROOTS:
        raise FormatError(f"kind {entry.kind[:80]!r} cannot be listed")
    if entry.kind == "pgo":  # its keys hold what a user calls a job
        check_key(entry.key)
        if any(character < " " for character in entry.key):
            raise FormatError(f"key {entry.key[:80]!r} holds a control character")
    else:
        check_name(entry.key, f"{entry.kind} key")
    if not is_variant(entry.kind, entry.variant):
        raise FormatError(f"variant {entry.variant[:80]!r} is none of kind {entry.kind}")
    return entry
