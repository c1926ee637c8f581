"""The session: one object a process through which plugins use the bucket, and which nothing in the bucket can break.

::

    session.start(settings)           called by a plugin; `current()` returns the session, None while it is off
    session.current().lookup(...)     one look into the bucket
    session.current().obtain(...)     ... with the result in this host's caches
    session.current().publish(...)    in the background
    session.stop()                    flushes, and says the line at exit; runs by itself when the process ends

A forked child has a session of its own, made when it is first asked for: connections and threads do not survive a fork.
No method raises because of the bucket: what cannot be had is a miss, said once per cause.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from tritonsync.format.bundle import Bundle
from tritonsync.format.manifest import Manifest
from tritonsync.format.objects import MARKER
from tritonsync.remote.calls import prepare_for_end
from tritonsync.remote.stats import BucketStats
from tritonsync.session.asking import Asking
from tritonsync.session.contact import Contact
from tritonsync.session.counters import Counters, Counts, summary
from tritonsync.session.ending import at_end, at_sigterm
from tritonsync.session.host import Host, plain_host
from tritonsync.session.incoming import Arrival, Incoming, Value
from tritonsync.session.loose import LooseKernels
from tritonsync.session.outgoing import UPLOAD_S, Outgoing
from tritonsync.session.record import Record, entries_of, program_name
from tritonsync.settings import Settings
from tritonsync.store import Store
from tritonsync.store.reader import MAX_VARIANTS, Found
from tritonsync.watch.report import Reporter

__all__ = ["Arrival", "Found", "Session", "Value", "current", "set_host", "start", "stop"]

log = logging.getLogger(__name__)


class Session:
    """What one process does with the bucket. Every method may be called from any thread.

    Args:
        settings: what the user chose.
        host: the caches of the program; None: those of a program without torch.
        is_helper: whether this process only compiles for another one: it keeps no record and says nothing at exit.

    Attributes:
        settings: as given.
        counters: what is said at exit.
        budget: seconds that the program may still wait in vain.
    """

    def __init__(self, settings: Settings, host: Host | None = None, *, is_helper: bool = False) -> None:
        self.settings = settings
        self.counters = Counters()
        self._asking = Asking(settings.budget_s, self.counters)
        self.budget = self._asking.budget
        self._host = host
        self._is_helper = is_helper
        self._ended = False
        self._has_ended = threading.Event()
        self._handles_sigterm = False
        self._lock = threading.RLock()
        self._go_ahead = threading.Event()
        self._record = Record(None if is_helper else settings.workload or program_name(sys.argv))
        self._last: Manifest | None = None
        if settings.may_write and not is_helper:
            prepare_for_end()
        self._contact = Contact(settings, self._greet, self._fetch_ahead)
        self.incoming = Incoming(
            store=self._wait_for_store,
            host=lambda: self.host,
            counters=self.counters,
            files=settings.files,
            failed=self._asking.failed,
        )
        self.outgoing = Outgoing(
            store=self._wait_for_store,
            host=lambda: self.host,
            incoming=self.incoming,
            counters=self.counters,
            used=self._record.note,
            writes=settings.may_write,
            failed=self._asking.failed,
        )
        self.loose = LooseKernels(
            store=self._wait_for_store,
            host=lambda: self.host,
            record=self._record,
            counters=self.counters,
            files=settings.files,
            failed=self._asking.failed,
        )

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
        return self._asking.is_off

    @property
    def stats(self) -> BucketStats:
        """What the bucket was asked for."""
        if not self._contact.is_made:
            return BucketStats()
        return self._contact.store(0).bucket.stats

    def begin(self) -> None:
        """Make contact in the background. Returns at once."""
        self._contact.begin()

    def go_ahead(self) -> None:
        """Say that the caches of the program are known, so that what its last run used can be fetched ahead."""
        self._go_ahead.set()

    def lookup(
        self,
        kind: str,
        key: str,
        *,
        variants: Collection[str] | None = None,
        newest: int = MAX_VARIANTS,
        have: Callable[[Manifest], bool] | None = None,
    ) -> Found:
        """Look into the bucket, within the budget; see `Reader.load`. Trouble of any kind is a miss."""

        def ask() -> Found:
            store = self._wait_for_store(self.budget.left)
            store.cpu = self.host.cpu()
            return store.load(kind, key, variants=variants, newest=newest, have=have, timeout=self.budget.left)

        return self._asking.ask(ask, Found(), lambda found: bool(found.bundles or found.present))

    def obtain(self, kind: str, key: str, seen: Collection[str]) -> Arrival:
        """Bring the values of a graph's key into this host's caches, with their kernels and autotune results.

        Args:
            kind: `fx_graph` or `aot_autograd`.
            key: the key there.
            seen: file names of values that torch has tried.
        """
        return self._asking.ask(
            lambda: self.incoming.fetch(kind, key, seen, self.budget.left), Arrival(), _brought_something, _was_asked
        )

    def join(self, kind: str, key: str) -> None:
        """Wait for the fetch of this key, if one is under way: what it brings is then in this host's caches."""
        flight = self.incoming.under_way(kind, key)
        if flight is None:
            return

        def land() -> Arrival:
            # One that is only planned would wait for its turn among the others: it is run here.
            flight.run(self.budget.left)
            return flight.result(self.budget.left)

        self._asking.ask(land, Arrival(), _brought_something, _was_asked)

    def obtain_kernel(self, key: str, variant: str, base: Path) -> bool:
        """Bring a kernel of no graph into the folder `<base>/<key>`; return whether it is there now."""
        return self._asking.ask(lambda: self.loose.fetch(key, variant, base, self.budget.left), False, bool)

    def publish_value(self, kind: str, key: str, data: bytes, refused: Collection[str] = ()) -> None:
        """Publish a value of torch in the background; see `Outgoing.value`."""
        if not self.is_off:
            self._watch_for_sigterm()
            self.outgoing.value(kind, key, data, refused)

    def publish(self, make: Callable[[], Bundle | None], *, after: int = -1, reread: bool = False) -> None:
        """Publish in the background the bundle that `make` returns there; None: nothing is published.

        Args:
            make: called on another thread.
            after: the highest generation of it that proved unusable, -1 for none.
            reread: whether what the bucket holds looked damaged.
        """
        if not self.is_off and self.settings.may_write:
            self._watch_for_sigterm()
            self.outgoing.bundle(make, after, reread)

    def publish_newest(self, kind: str, key: str, data: bytes) -> None:
        """Publish the last state of a value that changes (`pgo`) at the end of the process."""
        if not self.is_off and self.settings.may_write:
            self._watch_for_sigterm()
            self.outgoing.newest(kind, key, data)

    def note_used(self, kind: str, key: str, variant: str | None = None) -> None:
        """Record that this run used a key; with the variant, where it is in the bucket."""
        self._record.note(kind, key, variant)

    def flush(self) -> None:
        """Upload what is there to be uploaded, in the time that there is for it; the session goes on."""
        with self._lock:
            if self._ended:
                return
        self._flush()

    def stop(self) -> None:
        """Flush what is to be uploaded, say the line, and do nothing more."""
        with self._lock:
            is_first, self._ended = not self._ended, True
        self._asking.end()
        if not is_first:
            # Another thread is at it (see `at_sigterm`), and a process that ends now would cut it short.
            self._has_ended.wait(self.settings.flush_s)
            return
        try:
            self._flush()
            self.outgoing.close()
            self._say()
        finally:
            self._has_ended.set()

    def _flush(self) -> None:
        if not self.is_off and self.settings.may_write:
            last = [self._publish_record] if self._record.is_new() or not self.outgoing.is_idle else []
            self.outgoing.flush(self.settings.flush_s, last)

    def _publish_record(self, store: Store) -> None:
        if self._record.is_new():
            self._record.publish(store, str(self.host.caches().inductor), UPLOAD_S, self.loose.collect)

    def _say(self) -> None:
        stats = self.stats
        if self.settings.report_dir is not None:
            counted = {**dataclasses.asdict(self.counters.now), **dataclasses.asdict(stats)}
            Reporter(self.settings.report_dir).say("counts", counts=counted)
        if self.settings.quiet or self._is_helper or self.counters.now.is_idle:
            return
        line = summary(self.counters.now, bytes_down=stats.bytes_down, bytes_up=stats.bytes_up)
        with contextlib.suppress(Exception):  # a closed or broken stderr is no reason to fail at exit
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def _wait_for_store(self, timeout: float | None) -> Store:
        return self._contact.store(timeout)

    def _greet(self, store: Store) -> None:
        """Make the first request, for what the last run used; on the contact's thread."""
        try:
            self._last = self._record.load(store)
            if self._record.name is None:
                store.bucket.get(MARKER)
        except Exception as exc:  # noqa: BLE001 - nobody waits for this thread
            self._asking.failed(exc)

    def _fetch_ahead(self) -> None:
        """Fetch what the last run used, on the same thread."""
        last = self._last
        self.loose.begin(last)
        try:
            entries = entries_of(last)
            if entries:
                self._go_ahead.wait()
                self.incoming.fetch_ahead(entries)
        except Exception as exc:  # noqa: BLE001 - nobody waits for this thread
            self._asking.failed(exc)

    def _watch_for_sigterm(self) -> None:
        if not self._handles_sigterm and self.settings.may_write:
            self._handles_sigterm = at_sigterm(self.stop)


def _brought_something(arrival: Arrival) -> bool:
    return bool(arrival.values)


def _was_asked(arrival: Arrival) -> bool:
    return arrival.asked


_lock = threading.RLock()
_settings: Settings | None = None
_shared_host: Host | None = None
_helper = False
_sessions: dict[int, Session] = {}


def start(settings: Settings, *, is_helper: bool = False) -> Session | None:
    """Choose the settings of this process and of its forked children; return the session, None if they turn it off."""
    global _settings, _helper
    with _lock:
        _settings, _helper = settings, is_helper
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
    return session.counters.now


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
