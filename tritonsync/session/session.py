"""The session: one object a process through which plugins use the bucket, and which nothing in the bucket can break.

::

    session.start(settings)           called by a plugin; `current()` returns the session, None while it is off
    session.current().look_up(...)    a lookup of torch for a graph (lookup.py)
    session.current().fetch_kernel(.) a lookup of Triton for a plain kernel (plain_kernels.py)
    session.current().enqueue(...)    publish in the background (outgoing.py)
    session.stop()                    flushes, and says the line at exit; runs by itself when the process ends

Plugins use its verbs and never its parts. A forked child has a session of its own, made when it is first asked for:
connections and threads do not survive a fork. No method raises because of the bucket: what cannot be had is a miss,
said once per cause.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from tritonsync.format.bundle import Bundle
from tritonsync.format.layout import FORMAT_OBJECT, MAX_FORMAT_BYTES
from tritonsync.format.manifest import Manifest
from tritonsync.remote.bucket import BucketStats
from tritonsync.remote.engine import needs_loop
from tritonsync.remote.threads import prepare_for_end, start_thread
from tritonsync.remote.waiting import Budget
from tritonsync.session.context import Connection, Context, Host, plain_host
from tritonsync.session.counters import Counters, Counts
from tritonsync.session.folders import Folders
from tritonsync.session.incoming import Incoming, Value
from tritonsync.session.lookup import GraphLookup, GraphLookups
from tritonsync.session.naming import program_name
from tritonsync.session.notices import facts_for_report, say_counts, say_unused, say_who_is_trusted
from tritonsync.session.outgoing import Outgoing
from tritonsync.session.plain_kernels import PlainKernels
from tritonsync.session.precompiled import Precompiled
from tritonsync.session.process import at_end
from tritonsync.session.sigterm import at_sigterm
from tritonsync.session.unused import why_unused
from tritonsync.session.waits import Waits
from tritonsync.session.workload import WorkloadRecord, entries_of
from tritonsync.settings import Settings
from tritonsync.store import Found, Store
from tritonsync.sync.caches import sweep

__all__ = ["Found", "GraphLookup", "Host", "Session", "Value", "current", "set_host", "start", "stop"]


class Session:
    """What one process does with the bucket. Every method may be called from any thread.

    Args:
        settings: what the user chose.
        host: the caches of the program; None: those of a program without torch.
        is_helper: whether this process only compiles for another one: it keeps no record and says nothing at exit.

    Attributes:
        settings: as given.
        folders: cache folders of other libraries, and verbs for their files.
    """

    def __init__(self, settings: Settings, host: Host | None = None, *, is_helper: bool = False) -> None:
        self.settings = settings
        self._host = host
        self._is_helper = is_helper
        self._ended = False
        self._has_ended = threading.Event()
        self._handles_sigterm = False
        self._has_swept = False
        self._lock = threading.RLock()
        self._graph_caches_known = threading.Event()
        self._last: Manifest | None = None
        if settings.may_write and not is_helper:
            prepare_for_end(loops=needs_loop(settings))
        self._counters = Counters()
        self._waits = Waits(settings.budget_s, self._counters)
        self._end = Budget(settings.flush_s)
        self._connection = Connection(settings, self._load_record, self._fetch_ahead)
        self._record = WorkloadRecord(
            None if is_helper else settings.workload or program_name(sys.argv, settings.notebook)
        )
        context = Context(settings, self._connection, lambda: self.host, self._counters, self._waits)
        self._context = context
        self._incoming = Incoming(context)
        self._outgoing = Outgoing(context, self._incoming, self._record)
        self._lookups = GraphLookups(context, self._incoming, self._record)
        self._plain_kernels = PlainKernels(context, self._record)
        self._precompiled = Precompiled(context, self._record)
        self.folders = Folders(context, () if is_helper else settings.bundles, self._outgoing.enqueue_work)

    # ---- the program ------------------------------------------------------------------------------------------------

    @property
    def host(self) -> Host:
        """The caches of the program."""
        if self._host is None:
            self._host = plain_host(self.settings)
        return self._host

    @host.setter
    def host(self, host: Host) -> None:
        self._host = host

    @property
    def is_helper(self) -> bool:
        """Whether this process only compiles for another one."""
        return self._is_helper

    @property
    def is_off(self) -> bool:
        """Whether the bucket is left alone for the rest of this process."""
        return self._waits.is_off

    @property
    def counts(self) -> Counts:
        """What this process has counted so far."""
        return self._counters.now

    @property
    def stats(self) -> BucketStats:
        """What the bucket was asked for."""
        if not self._connection.is_made:
            return BucketStats()
        return self._connection.store(0).bucket.stats

    def begin(self) -> None:
        """Connect in the background. Returns at once."""
        self._connection.begin()

    def graph_caches_are_known(self) -> None:
        """Say that torch's caches are as expected, so that the graphs of the last run can be fetched ahead."""
        self._graph_caches_known.set()
        self._sweep_once()

    def kernel_cache_is_known(self) -> None:
        """Say that Triton is here, so that the plain kernels of the last run can be fetched ahead."""
        self._plain_kernels.cache_is_known()
        self._sweep_once()

    def own_time(self) -> AbstractContextManager[None]:
        """Count the time of a block as ours."""
        return self._counters.own()

    # ---- from the bucket --------------------------------------------------------------------------------------------

    def look_up(self, kind: str, key: str) -> GraphLookup:
        """Begin a lookup of torch for the value of a graph; what is being fetched of its key is here afterwards.

        Args:
            kind: `fx_graph` or `aot_autograd`.
            key: the key there.
        """
        return GraphLookup(self._lookups, kind, key, set(self._incoming.settled_names(kind, key)))

    def newest(self, kind: str, key: str) -> Found:
        """Look for the newest bundle of a key, within the budget. Trouble of any kind is a miss."""

        def load() -> Found:
            left = self._waits.budget.left
            return self._context.reader(left).load(kind, key, newest=1, timeout=self._waits.budget.left)

        found = self._waits.wait_for(load, Found(), lambda found: bool(found.bundles))
        for loaded in found.bundles:
            self._record.note(kind, key, loaded.manifest.variant)
        return found

    def precompiled(self, key: str) -> Iterator[bytes]:
        """Yield what Dynamo made of a function in earlier runs, best first; trouble of any kind is a miss."""
        return self._precompiled.look_up(key)

    def precompiled_at_hand(self, beginning: str) -> tuple[str, bytes] | None:
        """Return a key that begins like this and what there is of it, if that can be had without waiting."""
        return self._precompiled.at_hand(beginning)

    def note_precompiled(self, key: str, data: bytes) -> None:
        """Note that the program uses this, so that it is kept on this host."""
        self._counters.add(hits=1)
        self._precompiled.keep(key, data)

    def fetch_kernel(self, key: str, variant: str, base: Path) -> bool:
        """Bring a plain kernel into the folder `<base>/<key>`; return whether it is there now."""
        left = self._waits.budget
        found = self._waits.wait_for(lambda: self._plain_kernels.fetch(key, variant, base, left.left), False, bool)
        if not found:
            self._counters.add(misses=1)
        return found

    # ---- what the program did ---------------------------------------------------------------------------------------

    def note_kernel_used(self, key: str, folder: Path) -> None:
        """Note that Triton has taken a plain kernel from its cache, where it lies in `folder`."""
        self._plain_kernels.note_used(key, folder)

    def note_autotuned(self, folder: str, name: str) -> None:
        """Note that this process has saved an autotune result, `<folder>/<name>` in Inductor's cache."""
        self._outgoing.note_autotuned(folder, name)

    # ---- to the bucket ----------------------------------------------------------------------------------------------

    def note_value_made(self, data: bytes) -> None:
        """Note that torch has put a value into its folder that is this process's own."""
        self._lookups.note_made(data)

    def enqueue_value(self, kind: str, key: str, data: bytes, sources: Collection[str] = ()) -> None:
        """Publish, in the background, a value that torch has made from these source files, with its kernels."""
        self._record.note(kind, key)
        if not self.is_off:
            self._watch_for_sigterm()
            self._outgoing.enqueue_value(kind, key, data, self._lookups.offered(kind, key), sources)

    def enqueue_newest(self, kind: str, key: str, data: bytes) -> None:
        """Publish the last state of a value that changes (`pgo`) at the end of the process."""
        if not self.is_off and self.settings.may_write:
            self._watch_for_sigterm()
            self._outgoing.enqueue_newest(kind, key, data)

    def enqueue_precompiled(self, key: str, make: Callable[[], bytes | None]) -> None:
        """Publish what Dynamo makes of a function, once its first calls are over.

        Args:
            key: of the function.
            make: called on another thread; returns the content, or None where there is nothing to be published.
        """
        if not self.is_off and self.settings.may_write:
            self._watch_for_sigterm()
            self._outgoing.enqueue_late(lambda: self._precompiled.publish(key, make))

    def enqueue_kernel(
        self, key: str, variant: str, folder: Path, make: Callable[[], Bundle | None], *, is_compiled: bool
    ) -> None:
        """Publish, in the background, what Triton has made for itself.

        Args:
            key: the kernel's hash.
            variant: of the bundle.
            folder: where it lies.
            make: called on another thread; returns the bundle, or None where there is nothing to be published.
            is_compiled: whether it counts as a kernel that was compiled here.
        """
        self._counters.add(kernels_compiled=int(is_compiled))
        after, reread = self._plain_kernels.note_made(key, variant, folder)
        if not self.is_off and self.settings.may_write:
            self._watch_for_sigterm()
            self._outgoing.enqueue(make, after, reread)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Upload what is there to be uploaded; the session goes on.

        All flushes of a session, the last one included, have `Settings.flush_s` together.
        """
        with self._lock:
            if self._ended:
                return
        self._flush()

    def stop(self) -> None:
        """Flush what is to be uploaded, say the line, and do nothing more."""
        with self._lock:
            is_first, self._ended = not self._ended, True
        self._waits.end()
        self.folders.end()
        if not is_first:
            # Another thread is at it (see `at_sigterm`), and a process that ends now would cut it short.
            self._has_ended.wait(self._end.left)
            return
        try:
            self._flush()
            self._outgoing.close()
            self._say()
        finally:
            self._has_ended.set()

    def _flush(self) -> None:
        if not self.is_off and self.settings.may_write:
            last = [self.folders.publish] if self.folders.is_known else []
            if self._record.is_new() or not self._outgoing.is_idle:
                last.insert(0, lambda store: self._outgoing.publish_record(store, self._plain_kernels.collect))
            with self._end.wait():
                self._outgoing.flush(self._end.left, last)

    def _say(self) -> None:
        if self._is_helper:
            say_counts(dataclasses.replace(self.settings, metrics=None, quiet=True), None, self.counts, self.stats, {})
        else:
            facts = facts_for_report(self._context, self._record.name, is_off=self.is_off)
            say_counts(self.settings, self._record.name, self.counts, self.stats, facts)
            ahead = self._incoming.fetched_ahead()
            say_unused(self.settings, why_unused(ahead, self._lookups, self.counts.misses, lambda: self.host))

    # ---- in the background ------------------------------------------------------------------------------------------

    def _load_record(self, store: Store) -> None:
        """Make the first request, for what the last run used; on the connection's thread."""
        try:
            self._last = self._record.load(store)
            if self._record.name is None:
                store.bucket.get(FORMAT_OBJECT, limit=MAX_FORMAT_BYTES)
        except Exception as exc:  # noqa: BLE001 - nobody waits for this thread
            self._waits.failed(exc)

    def _fetch_ahead(self) -> None:
        """Fetch what the last run used, on the same thread."""
        last = self._last
        self.folders.begin()
        self._plain_kernels.begin(last)
        self._precompiled.begin(last)
        try:
            entries = entries_of(last)
            if last is not None and entries:
                self._graph_caches_known.wait()
                self._incoming.fetch_ahead(entries, last)
        except Exception as exc:  # noqa: BLE001 - nobody waits for this thread
            self._waits.failed(exc)

    def _sweep_once(self) -> None:
        """Remove what killed processes left in the caches, in the background; one process of a program is enough."""
        with self._lock:
            is_first, self._has_swept = not self._has_swept, True
        if is_first and not self._is_helper:
            start_thread(lambda: sweep(self.host.caches()))

    def _watch_for_sigterm(self) -> None:
        if not self._handles_sigterm and self.settings.may_write:
            self._handles_sigterm = at_sigterm(self.stop)


_lock = threading.RLock()
_settings: Settings | None = None
_shared_host: Host | None = None
_helper = False
_started_in: int | None = None
_sessions: dict[int, Session] = {}


def start(settings: Settings, *, is_helper: bool = False) -> Session | None:
    """Choose the settings of this process and of its forked children; return the session, None if they turn it off."""
    global _settings, _helper, _started_in
    with _lock:
        _settings, _helper, _started_in = settings, is_helper, os.getpid()
    return current()


def set_host(host: Host, *, unless_set: bool = False) -> None:
    """Tell the session, now and after a fork, about the caches of the program."""
    global _shared_host
    with _lock:
        if unless_set and _shared_host is not None:
            return
        _shared_host = host
        session = _sessions.get(os.getpid())
        if session is not None:
            session.host = host


def current() -> Session | None:
    """Return the session of this process; None: there is none, or it is off."""
    session = _sessions.get(os.getpid())
    if session is not None:
        return session
    with _lock:
        if _settings is None or not _settings.is_active:
            return None
        pid = os.getpid()
        if pid not in _sessions:
            # A parent's session is dropped: its threads and connections do not exist here.
            _sessions.clear()
            _sessions[pid] = Session(_settings, _shared_host, is_helper=_helper)
            at_end(_sessions[pid].flush, _sessions[pid].stop)
            if pid == _started_in and not _helper:
                say_who_is_trusted(_settings)
        return _sessions[pid]


def stop() -> Counts | None:
    """End the session of this process, if there is one; return what it counted."""
    global _settings
    with _lock:
        session = _sessions.pop(os.getpid(), None)
        _settings = None
    if session is None:
        return None
    session.stop()
    return session.counts


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
