"""Why a graph or a kernel was compiled: what `tritonsync why` says, and `tritonsync run` at its end.

A key that the bucket lacks says nothing by itself, so what it is made of is compared with the bundles of the same
workload (nearest.py). A key that the bucket has is looked at as a reader does (stored.py), and what keeps it from being
served is named. Nothing is written.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tritonsync.errors import TritonSyncError
from tritonsync.format.facts import key_parts_of_value
from tritonsync.format.key_parts import Difference, Part, parts_of_kernel
from tritonsync.local import inductor_cache, triton_cache
from tritonsync.local.files import check_owner
from tritonsync.store.reader import Reader
from tritonsync.sync.here import Here, here_of_facts
from tritonsync.sync.nearest import Nearest
from tritonsync.sync.stored import Holdings

__all__ = ["Compiled", "State", "Why", "compiled_here", "compiled_in_run", "explain", "sentence"]

State = Literal["differs", "new", "refused", "gone", "there", "no key", "of a graph", "not asked"]

#: Characters of guards that are shown; some have thousands.
_SHOWN = 160
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A graph or kernel that was compiled here, and what is known of its key.

    Attributes:
        kind: `fx_graph` or `triton`.
        key: None where torch has none.
        name: for people: the kernel's name, or the key.
        here: where it was compiled.
        parts: of the key; empty: not known.
        sources: files that a graph was traced from, and digests of them.
        refusal: why torch gave it no key; empty: not known.
        is_of_graph: whether Inductor compiled the kernel for a graph.
        is_off: whether that process had given the bucket up.
    """

    kind: str
    key: str | None
    name: str
    here: Here
    parts: tuple[Part, ...] = ()
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    refusal: str = ""
    is_of_graph: bool = False
    is_off: bool = False


@dataclasses.dataclass(frozen=True)
class Why:
    """Why one of them was compiled.

    Attributes:
        kind, key, name: as in `Compiled`.
        state: `differs` from the nearest bundle; `new`: nothing to compare it with; `refused`: the bucket has the key,
            and not for this process; `gone`: the workload lists it, and the bucket has it no more; `there`: it could
            have been served; `no key`: torch has none for it; `of a graph`: it comes and goes with its graph; `not
            asked`: the bucket could not be asked now.
        reason: one line.
        bundle: prefix of the bundle that differs least, or of the one that is refused.
        made: when that was published, as its manifest states it.
        differences: what differs, or keeps it from being served; what explains most in front.
    """

    kind: str
    key: str | None
    name: str
    state: State
    reason: str
    bundle: str | None = None
    made: str | None = None
    differences: tuple[Difference, ...] = ()


def compiled_in_run(event: Mapping[str, Any], facts: Mapping[str, Any], host: Here) -> Compiled:
    """Return what a watched run reports of one graph or kernel (watch/report.py).

    Args:
        event: `graph` or `kernel`.
        facts: of the session of that process; empty: not known.
        host: this host.
    """
    here, is_off = here_of_facts(facts, host), bool(facts.get("off"))
    name = str(event.get("name"))
    if event.get("event") == "graph":
        key = event.get("key")
        known = Compiled("fx_graph", key, name, here, sources=event.get("sources") or {}, is_off=is_off)
        if key is None or not event.get("cache"):
            return dataclasses.replace(known, refusal=str(event.get("refusal") or ""))
        return dataclasses.replace(known, parts=_parts_of_graph(Path(event["cache"]), key))
    key = _folder_name(str(event.get("hash")))
    folder = event.get("folder")
    parts = () if folder is None or event.get("of_graph") else _parts_of_folder(Path(folder))
    return Compiled("triton", key, name, here, parts, is_of_graph=bool(event.get("of_graph")), is_off=is_off)


def compiled_here(key: str, here: Here, inductor_dir: Path, triton_dir: Path) -> Compiled | None:
    """Return the graph or kernel whose key, or the beginning of it, this is, from the caches of this host.

    Raises:
        UnsafeFolderError: others may write into them.
        LocalCacheError: they cannot be read.
    """
    graphs = {value.key for value in inductor_cache.values(inductor_dir) if value.kind == "fx_graph"}
    found = sorted(each for each in graphs if each.startswith(key))
    if found:
        return Compiled("fx_graph", found[0], found[0], here, _parts_of_graph(inductor_dir, found[0]))
    check_owner(triton_dir)
    for folder in triton_cache.scan(triton_dir):
        if folder.hash.startswith(key):
            kernel = triton_cache.collect(folder.path, folder.device)
            if kernel is not None:
                return Compiled("triton", folder.hash, kernel.name, here, parts_of_kernel(kernel))
    return None


def explain(
    reader: Reader,
    workload: str | None,
    compiled: Sequence[Compiled],
    *,
    before: str | None,
    own: Collection[str] = (),
    whole: bool = False,
) -> list[Why]:
    """Say of each why it was compiled.

    Args:
        reader: of the bucket.
        workload: of the program; None: not known.
        compiled: what was.
        before: when the program was started; what was published later was not there for it; None: everything counts.
        own: prefixes of the bundles that it has published itself.
        whole: look at the whole bucket, where the workload has nothing to compare with.

    Raises:
        RemoteError: the bucket could not be asked.
        FormatError: the workload's list cannot be read.
    """
    keys = {(each.kind, each.key) for each in compiled if each.key is not None and not each.is_of_graph}
    holdings = Holdings(reader, workload, keys=None if whole else keys, before=before, own=own)
    nearest = Nearest(holdings)
    return [_why(holdings, nearest, each) for each in compiled]


def _why(holdings: Holdings, nearest: Nearest, compiled: Compiled) -> Why:
    if compiled.is_of_graph:
        return _told(compiled, "of a graph", "Inductor compiled it for a graph, and it travels with that")
    if compiled.key is None:
        why = compiled.refusal or "its cache is off, or bundled_autograd_cache keeps it elsewhere"
        return _told(compiled, "no key", f"torch has no key for it: {why}")
    stored = holdings.stored(holdings.places(compiled.kind, compiled.key), compiled.here)
    if stored:
        best = min(stored, key=lambda state: len(state.obstacles))
        known = {"bundle": best.place, "made": best.made}
        if best.obstacles:
            reason = f"the bucket has it, but not for this process: {sentence(best.obstacles)}"
            return _told(compiled, "refused", reason, **known, differences=best.obstacles)
        if compiled.is_off:
            return _told(compiled, "there", "the process had given the bucket up; its warnings say why", **known)
        if best.guards:
            shown = best.guards if len(best.guards) <= _SHOWN else f"{best.guards[: _SHOWN - 1]}…"
            guards = (Difference("guards", None, shown),)
            reason = f"the bucket has it for other shapes: {shown}"
            return _told(compiled, "refused", reason, **known, differences=guards)
        reason = "the bucket has it; the program's warnings say why it was not used"
        return _told(compiled, "there", reason, **known)
    if any((entry.kind, entry.key) == (compiled.kind, compiled.key) for entry in holdings.entries):
        return _told(compiled, "gone", "the workload lists it, and the bucket has it no more: expired or removed")
    if compiled.kind == "triton":
        near = nearest.kernel(compiled.name, compiled.parts)
    else:
        near = nearest.graph(compiled.parts, compiled.sources, compiled.here)
    if near is None:
        return _told(compiled, "new", _nothing_like(holdings, compiled.kind))
    differing = sentence(near.differences) if near.differences else "in what its key does not tell"
    return _told(
        compiled,
        "differs",
        f"differs from the nearest: {differing}",
        bundle=near.place.prefix,
        made=near.manifest.created,
        differences=near.differences,
    )


def _told(compiled: Compiled, state: State, reason: str, **more: Any) -> Why:  # noqa: ANN401 - fields of Why
    return Why(compiled.kind, compiled.key, compiled.name, state, reason, **more)


def _nothing_like(holdings: Holdings, kind: str) -> str:
    what = "kernel of that name" if kind == "triton" else "graph"
    if holdings.workload is None:
        return f"the bucket has no {what} to compare it with"
    if holdings.list is None:
        return f"the bucket knew nothing of workload {holdings.workload}"
    return f"workload {holdings.workload} has no {what} to compare it with"


def sentence(found: Iterable[Difference]) -> str:
    """Say in one line what differs; the first two of it."""
    parts = [_clause(each) for each in found]
    more = f"; and {len(parts) - 2} more" if len(parts) > 2 else ""
    return "; ".join(parts[:2]) + more


def _clause(each: Difference) -> str:
    if each.here is None and each.there is None:
        return each.part
    if each.here is None:
        return f"{each.part}: {each.there}"
    return f"{each.part} ({each.here} here, {each.there} there)"


def _parts_of_graph(inductor_dir: Path, key: str) -> tuple[Part, ...]:
    """Return the parts of a graph's key, which its value in Inductor's folder holds; empty: there is none."""
    try:
        folder = inductor_cache.value_path(inductor_dir, "fx_graph", key, "0" * 64).parent
        for path in sorted(folder.iterdir()):
            data = inductor_cache.read_value(inductor_dir, inductor_cache.LocalValue("fx_graph", key, path))
            if data is not None and (parts := key_parts_of_value(data)):
                return parts
    except (OSError, TritonSyncError):
        return ()
    return ()


def _parts_of_folder(folder: Path) -> tuple[Part, ...]:
    try:
        kernel = triton_cache.collect(folder, None)
    except TritonSyncError:
        return ()
    return () if kernel is None else parts_of_kernel(kernel)


def _folder_name(kernel_hash: str) -> str | None:
    """Return Triton's name of a kernel's folder: the digits of its hash in base 32."""
    if not _HEX64.fullmatch(kernel_hash):
        return None
    return base64.b32encode(bytes.fromhex(kernel_hash)).decode().rstrip("=")
