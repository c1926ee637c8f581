"""Inductor's two graph caches: what they are offered from the bucket, and what they make for it.

A lookup goes through `GuardedCache.iterate_over_candidates` (torch/_inductor/codecache.py, the same in 2.11, 2.13 and
2.15): torch takes the first candidate whose guards hold. Ours come after torch's own, and each has been written into
Inductor's folder, with its kernels and autotune results, before torch gets it.
"""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tritonsync.messages import warn_once
from tritonsync.plugins.collectives import collectives_of
from tritonsync.plugins.edge import edge
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
            for candidate in original(cls, local, remote_cache, key):
                if lookup is not None and (_is_foreign(candidate[0]) or _is_for_another(lookup, candidate[1])):
                    continue
                try:
                    yield candidate
                except GeneratorExit:
                    # torch has taken this one, and looks no further.
                    _taken(lookup, candidate[1], None)
                    raise
            while lookup is not None and not lookup.is_done:
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
            _missed(lookup)

        return iterate_over_candidates

    def write(self, kind: str) -> Callable[[Callable[[str, bytes], None]], Callable[[str, bytes], None]]:
        """Make `_write_to_local_cache` of a cache publish what it writes."""

        def make(original: Callable[[str, bytes], None]) -> Callable[[str, bytes], None]:
            def _write_to_local_cache(key: str, content: bytes) -> None:
                _made(content)
                original(key, content)
                if not getattr(self._here, "populating", False):
                    _written(kind, key, content)

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
def _begin(cache: str, key: str) -> GraphLookup | None:
    now, kind = session.current(), _KINDS.get(cache)
    if now is None or kind is None:
        return None
    lookup = now.look_up(kind, key)
    # torch's own candidates go on as ever, but for those of other ranks.
    lookup.is_done = _is_nonce(key) or _must_agree(now, kind)
    return lookup


def _is_nonce(key: str) -> bool:
    """Whether torch, which could not work out a key, has made up a number (autograd_cache.py, `aot_compile` alone)."""
    return not key.startswith(("a", "f"))


def _must_agree(now: session.Session, kind: str) -> bool:
    setting = collectives_of(kind, now.host.rank())
    if setting is not None:
        message = "the bucket is left alone: ranks talk to each other while they compile, by %s"
        warn_once(log, "collectives", message, setting)
    return setting is not None


@edge(None)
def _more(lookup: GraphLookup) -> tuple[Value, ...] | None:
    return lookup.more()


def _open(lookup: GraphLookup, value: Value) -> Candidate | None:
    # Not under `edge`: torch would unpickle it as well, so the time is not ours.
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


# Where that cannot be told, it is: what another rank's graph does is silently wrong.
@edge(True)
def _is_for_another(lookup: GraphLookup, data: bytes) -> bool:
    return lookup.is_for_another(data)


@edge(None)
def _taken(lookup: GraphLookup | None, data: bytes, value: Value | None) -> None:
    if lookup is not None:
        lookup.taken(data, value)


@edge(None)
def _missed(lookup: GraphLookup | None) -> None:
    if lookup is not None:
        lookup.missed()


@edge(None)
def _made(content: bytes) -> None:
    now = session.current()
    if now is not None:
        now.note_value_made(bytes(content))


@edge(None)
def _written(kind: str, key: str, content: bytes) -> None:
    now = session.current()
    if now is not None and not _is_nonce(key) and not _must_agree(now, kind):
        now.enqueue_value(kind, key, bytes(content))
