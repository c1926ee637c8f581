"""Inductor's two graph caches: what they are offered from the bucket, and what they make for it.

A lookup goes through `GuardedCache.iterate_over_candidates` (torch/_inductor/codecache.py, the same in 2.11, 2.13 and
2.15): torch takes the first candidate whose guards hold. Ours come after torch's own, and each has been written into
Inductor's folder, with its kernels and autotune results, before torch gets it.
"""

from __future__ import annotations

import logging
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from tritonsync.format.key_parts import files_in_traces
from tritonsync.messages import warn_once
from tritonsync.plugins.collectives import collectives_of
from tritonsync.plugins.edge import edge, never_raise
from tritonsync.session import session
from tritonsync.session.session import GraphLookup, Value

__all__ = ["GraphCaches"]

log = logging.getLogger(__name__)

_KINDS = {"FxGraphCache": "fx_graph", "AOTAutogradCache": "aot_autograd"}

#: What torch gets: the value unpickled, its bytes, and whether it came from its own folder.
Candidate = tuple[Any, bytes, bool]


class GraphCaches:
    """Makes the functions that stand in for torch's own."""

    def __init__(self) -> None:
        self._here = threading.local()

    def candidates(self, original: Callable[..., Iterator[Candidate]]) -> Callable[..., Iterator[Candidate]]:
        """Make `GuardedCache.iterate_over_candidates` offer ours too."""

        def iterate_over_candidates(
            cls: type,
            local: bool,
            remote_cache: object,
            key: str,
        ) -> Iterator[Candidate]:
            lookup = _begin(cls.__name__, key) if local else None
            if lookup is None:
                yield from original(cls, local, remote_cache, key)
                return
            for candidate in original(cls, local, remote_cache, key):
                if _is_foreign(candidate[0]) or _is_for_another(lookup, candidate[1]):
                    continue
                try:
                    yield candidate
                except GeneratorExit:
                    # torch has taken this one, and looks no further.
                    _taken(lookup, candidate[1], None)
                    raise
            while not lookup.is_done:
                values = _more(lookup)
                if values is None:
                    break  # it failed, and nothing says that it would not again
                for value in values:
                    opened = _open(lookup, value)
                    if opened is None:
                        continue
                    try:
                        yield opened
                    except GeneratorExit:
                        _taken(lookup, value.data, value)
                        raise
            with never_raise("GraphLookup.missed"):
                lookup.missed()

        return iterate_over_candidates

    def prepare(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Make `prepare_key` note the graph that a key was made of, for what is written under it."""

        def prepare_key(gm: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            result = original(gm, *args, **kwargs)
            self._note_graph(gm, result)
            return result

        return prepare_key

    @edge(None)
    def _note_graph(self, graph: Any, result: Any) -> None:  # noqa: ANN401
        # Weakly: whoever compiles it holds it until the value is written.
        self._here.graph = (result[0][0], weakref.ref(graph)) if result[0] else None

    @edge(frozenset())
    def _sources(self, key: str) -> frozenset[str]:
        """Return the files that the graph of this key was traced from."""
        known, reference = getattr(self._here, "graph", None) or ("", None)
        graph = reference() if known == key and reference is not None else None
        if graph is None:
            return frozenset()
        return files_in_traces(node.meta.get("stack_trace") for node in graph.graph.nodes)

    def write(self, kind: str) -> Callable[[Callable[[str, bytes], None]], Callable[[str, bytes], None]]:
        """Make `_write_to_local_cache` of a cache publish what it writes."""

        def make(original: Callable[[str, bytes], None]) -> Callable[[str, bytes], None]:
            def _write_to_local_cache(key: str, content: bytes) -> None:
                _made(content)
                original(key, content)
                if not getattr(self._here, "populating", False):
                    _written(kind, key, content, self._sources(key) if kind == "fx_graph" else frozenset())

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


def _begin(cache: str, key: str) -> GraphLookup | None:
    with never_raise("Session.look_up"):
        now, kind = session.current(), _KINDS.get(cache)
        if now is None or kind is None:
            return None
        lookup = now.look_up(kind, key)
        # torch's own candidates go on as ever, but for those of other ranks.
        lookup.is_done = _is_nonce(key) or _must_agree(now, kind)
        return lookup
    return None


def _is_nonce(key: str) -> bool:
    """Whether torch, which could not work out a key, has made up a number (autograd_cache.py, `aot_compile` alone)."""
    return not key.startswith(("a", "f"))


def _must_agree(now: session.Session, kind: str) -> bool:
    setting = collectives_of(kind, now.host.rank())
    if setting is not None:
        message = "the bucket is left alone: ranks talk to each other while they compile, by %s"
        warn_once(log, "collectives", message, setting)
    return setting is not None


def _is_for_another(lookup: GraphLookup, data: bytes) -> bool:
    with never_raise("GraphLookup.is_for_another"):
        return lookup.is_for_another(data)
    return True  # it may be: what another rank's graph does is silently wrong


def _more(lookup: GraphLookup) -> tuple[Value, ...] | None:
    with never_raise("GraphLookup.more"):
        return lookup.more()
    return None


def _taken(lookup: GraphLookup, data: bytes, value: Value | None) -> None:
    with never_raise("GraphLookup.taken"):
        lookup.taken(data, value)


def _open(lookup: GraphLookup, value: Value) -> Candidate | None:
    # Not under `never_raise`: torch would unpickle it as well, so the time is not ours.
    try:
        opened = pickle.loads(value.data)  # noqa: S301 - checked against a manifest, signed where keys are set
        opened.guards_expr  # noqa: B018 - torch asks for it
    except Exception as exc:  # noqa: BLE001 - a value of another torch can fail in any way
        warn_once(log, "unpickle", "%s/%s cannot be used here: %r", lookup.kind, lookup.key, exc)
        return None
    return None if _is_foreign(opened) else (opened, value.data, False)


@edge(False)
def _is_foreign(value: Any) -> bool:  # noqa: ANN401
    """Whether torch would refuse the value for its libdevice, after it has stopped looking at others."""
    now, key = session.current(), getattr(value, "extern_libs_key", None)
    return now is not None and key is not None and key != now.host.extern_libs_key()


@edge(None)
def _made(content: bytes) -> None:
    now = session.current()
    if now is not None:
        now.note_value_made(bytes(content))


@edge(None)
def _written(kind: str, key: str, content: bytes, sources: frozenset[str]) -> None:
    now = session.current()
    if now is not None and not _is_nonce(key) and not _must_agree(now, kind):
        now.enqueue_value(kind, key, bytes(content), sources)
