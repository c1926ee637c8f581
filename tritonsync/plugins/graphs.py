"""Inductor's two graph caches: what they are offered from the bucket, and what they make for it.

A lookup goes through `GuardedCache.iterate_over_candidates` (torch/_inductor/codecache.py, the same in 2.11, 2.13 and
2.15): torch takes the first candidate whose guards hold. Ours come after torch's own, and each has been written into
Inductor's folder, with its kernels and autotune results, before torch gets it.
"""

from __future__ import annotations

import functools
import logging
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tritonsync.format.facts import ValueFacts
from tritonsync.format.manifest import Manifest
from tritonsync.format.value import facts_of_value
from tritonsync.format.variant import variant_of
from tritonsync.plugins.edge import edge
from tritonsync.session import session
from tritonsync.session.once import warn_once
from tritonsync.session.session import Session, Value

__all__ = ["GraphCaches"]

log = logging.getLogger(__name__)

_KINDS = {"FxGraphCache": "fx_graph", "AOTAutogradCache": "aot_autograd"}

#: What torch gets: the value unpickled, its bytes, and whether it came from its own folder.
Candidate = tuple[Any, bytes, bool]


class _Lookup:
    """One lookup of torch: what it was offered."""

    def __init__(self, now: Session, kind: str, key: str, seen: Iterable[str]) -> None:
        self.session, self.kind, self.key = now, kind, key
        self.seen = set(seen)
        self.is_done = False


class GraphCaches:
    """The state between lookups and writes.

    Args:
        extern_libs_key: torch's key of the libdevice of this host; None where it has none.
    """

    def __init__(self, extern_libs_key: Callable[[], str | None]) -> None:
        self._extern_libs_key = functools.cache(extern_libs_key)
        # Without locks, which a fork could leave locked: each change is one assignment.
        self._offered: dict[tuple[str, str], frozenset[str]] = {}
        self._parts: frozenset[str] = frozenset()
        self._here = threading.local()

    def candidates(self, original: Callable[..., Iterator[Candidate]]) -> Callable[..., Iterator[Candidate]]:
        """Make `GuardedCache.iterate_over_candidates` offer ours too."""

        def iterate_over_candidates(
            cls: type,
            local: bool,
            remote_cache: object,
            key: str,
        ) -> Iterator[Candidate]:
            lookup = self._begin(cls.__name__, key) if local else None
            for candidate in original(cls, local, remote_cache, key):
                if lookup is not None and self._is_foreign(candidate[0]):
                    continue
                try:
                    yield candidate
                except GeneratorExit:
                    # torch has taken this one, and looks no further.
                    self._taken(lookup, candidate[1], None)
                    raise
            while lookup is not None and not lookup.is_done:
                for value in self._more(lookup):
                    opened = self._open(lookup, value)
                    if opened is None:
                        continue
                    try:
                        yield opened
                    except GeneratorExit:
                        self._taken(lookup, value.data, value)
                        raise
            self._missed(lookup)

        return iterate_over_candidates

    def write(self, kind: str) -> Callable[[Callable[[str, bytes], None]], Callable[[str, bytes], None]]:
        """Make `_write_to_local_cache` of a cache publish what it writes."""

        def make(original: Callable[[str, bytes], None]) -> Callable[[str, bytes], None]:
            def _write_to_local_cache(key: str, content: bytes) -> None:
                original(key, content)
                self._written(kind, key, content)

            return _write_to_local_cache

        return make

    def populate(self, original: Callable[[Any], None]) -> Callable[[Any], None]:
        """Make `populate_cache` of a Mega-Cache artifact write without publishing: nobody made that here."""

        def populate_cache(artifact: Any) -> None:  # noqa: ANN401
            self._here.populating = True
            try:
                original(artifact)
            finally:
                self._here.populating = False

        return populate_cache

    @edge(None)
    def _begin(self, cache: str, key: str) -> _Lookup | None:
        now, kind = session.current(), _KINDS.get(cache)
        if now is None or kind is None:
            return None
        now.join(kind, key)
        lookup = _Lookup(now, kind, key, now.incoming.names(kind, key))
        self._note_offered(lookup)
        return lookup

    @edge(())
    def _more(self, lookup: _Lookup) -> tuple[Value, ...]:
        """Return values of the bucket that torch has not tried."""
        lookup.is_done = True  # also if what follows raises
        arrival = lookup.session.obtain(lookup.kind, lookup.key, frozenset(lookup.seen))
        new = tuple(value for value in arrival.values if value.name not in lookup.seen)
        lookup.seen.update(value.name for value in new)
        self._note_offered(lookup)
        lookup.is_done = arrival.asked or not new
        return new

    def _open(self, lookup: _Lookup, value: Value) -> Candidate | None:
        # Not under `edge`: torch would unpickle it as well, so the time is not ours.
        try:
            opened = pickle.loads(value.data)  # noqa: S301 - checked against a manifest, signed where keys are set
            opened.guards_expr  # noqa: B018 - torch asks for it
        except Exception as exc:  # noqa: BLE001 - a value of another torch can fail in any way
            warn_once(log, "unpickle", "%s/%s cannot be used here: %r", lookup.kind, lookup.key, exc)
            return None
        return None if self._is_foreign(opened) else (opened, value.data, False)

    @edge(False)
    def _is_foreign(self, value: Any) -> bool:  # noqa: ANN401
        """Whether torch would refuse the value for its libdevice, after it has stopped looking at others."""
        key = getattr(value, "extern_libs_key", None)
        return key is not None and key != self._extern_libs_key()

    @edge(None)
    def _taken(self, lookup: _Lookup | None, data: bytes, value: Value | None) -> None:
        if lookup is None:
            return
        now, kind, key = lookup.session, lookup.kind, lookup.key
        if value is not None and value.manifest is not None:
            manifests: list[Manifest] = [value.manifest]
        else:
            manifests = list(now.incoming.came_from_bucket(kind, key).values())
        now.note_used(kind, key)
        for manifest in manifests:
            now.note_used(kind, key, manifest.variant)
        now.outgoing.note_graph(kind, key)
        if not manifests:
            now.counters.add(local_hits=1)
            return
        now.counters.add(hits=1)
        if key not in self._parts:
            now.counters.add(saved_s=max(manifest.compile_seconds for manifest in manifests))
        if kind == "aot_autograd":
            self._expect_graphs(now, data)

    def _expect_graphs(self, now: Session, data: bytes) -> None:
        """Fetch the FX graphs that an AOTAutograd value names, all at once; torch asks for one after the other."""
        graphs = facts_of_value(data).fx_graphs
        cpu = now.host.cpu()
        libraries = {"", self._extern_libs_key() or ""}
        self._parts |= {key for key, _ in graphs}
        wanted: dict[str, set[str]] = {}
        for key, guards in graphs:
            facts = [
                ValueFacts(guards=guards, extern_libs_key=library, uses_cpp=uses_cpp)
                for library in libraries
                for uses_cpp in (False, True)
            ]
            wanted.setdefault(key, set()).update(variant_of(each, cpu)[0] for each in facts)
        now.incoming.expect("fx_graph", wanted)

    @edge(None)
    def _missed(self, lookup: _Lookup | None) -> None:
        if lookup is not None:
            lookup.session.counters.add(misses=1)

    @edge(None)
    def _written(self, kind: str, key: str, content: bytes) -> None:
        now = session.current()
        if now is None or getattr(self._here, "populating", False):
            return
        refused = self._offered.get((kind, key), frozenset())
        now.note_used(kind, key)
        now.publish_value(kind, key, bytes(content), refused)

    def _note_offered(self, lookup: _Lookup) -> None:
        place = (lookup.kind, lookup.key)
        self._offered[place] = self._offered.get(place, frozenset()) | lookup.seen
