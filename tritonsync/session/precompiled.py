"""What Dynamo made of a function (`dynamo`), while a program runs: fetched ahead, asked for, and published.

The content of a key changes from run to run, as the program calls a function with other shapes, and the newest serves.
What the last run used is fetched as soon as there is a connection, into memory: it is small, and what is found here is
put to use only after the plugin has compared what it was made of.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tritonsync import times
from tritonsync.errors import FormatError, LocalCacheError
from tritonsync.format.manifest import Manifest
from tritonsync.format.value import bundle_of_value, value_of_bundle
from tritonsync.local import inductor_cache
from tritonsync.remote.threads import in_parallel, start_thread
from tritonsync.remote.waiting import Deadline
from tritonsync.session.context import Context
from tritonsync.session.incoming import Arrival, SharedFetch, Value
from tritonsync.session.workload import WorkloadRecord, entries_of

__all__ = ["KIND", "Precompiled"]

KIND = "dynamo"
#: Functions fetched ahead in one run, and how many at a time.
MAX_AHEAD, AHEAD_AT_ONCE = 64, 4


class Precompiled:
    """Brings and publishes what Dynamo made of functions.

    Args:
        context: of the session.
        record: of what this run used.
    """

    def __init__(self, context: Context, record: WorkloadRecord) -> None:
        self._context, self._record = context, record
        self._lock = threading.Lock()
        self._fetches: dict[str, SharedFetch] = {}

    def begin(self, last: Manifest | None) -> None:
        """Fetch ahead, in the background, what the last run used."""
        keys = sorted({entry.key for entry in entries_of(last) if entry.kind == KIND})[:MAX_AHEAD]
        fetches = [self._plan(key) for key in keys]
        if fetches:
            start_thread(lambda: in_parallel(lambda each: each.run(times.BACKGROUND_S), fetches, AHEAD_AT_ONCE))

    def look_up(self, key: str) -> Iterator[bytes]:
        """Yield what this host has of a function, then what the bucket has."""
        data = self._here(key, self._path(key))
        if data is not None:
            yield data
        waits, fetch = self._context.waits, self._plan(key)
        arrival = waits.wait_for(
            lambda: fetch.run_or_wait(waits.budget.left), Arrival(), lambda found: bool(found.values)
        )
        for value in arrival.values:
            if value.manifest is not None:
                self._record.note(KIND, key, value.manifest.variant)
            if value.data != data:
                yield value.data

    def at_hand(self, beginning: str) -> tuple[str, bytes] | None:
        """Return a key that begins like this and its content, if they are here already; of several, the newest."""
        name, caches = self._path(beginning).name, self._path(beginning).parent.parent
        for path in sorted(caches.glob(f"{beginning}*/{name}"), key=_written, reverse=True):
            data = self._here(path.parent.name, path)
            if data is not None:
                return path.parent.name, data
        with self._lock:
            fetches = [(key, fetch) for key, fetch in self._fetches.items() if key.startswith(beginning)]
        for key, fetch in fetches:
            brought = fetch.brought
            for value in brought.values if brought is not None else ():
                return key, value.data
        return None

    def keep(self, key: str, data: bytes) -> None:
        """Write it into the cache folder of this host, where the next process finds it.

        Raises:
            LocalCacheError: the folder cannot be written.
        """
        inductor_cache.write_value(self._context.host().caches().inductor, KIND, key, data, replace=True)

    def publish(self, key: str, make: Callable[[], bytes | None]) -> None:
        """Publish what `make` returns, if it returns something; on an upload thread.

        Raises:
            RemoteError: the bucket could not be asked, or refused the write.
            LocalCacheError: the cache folder of this host cannot be written.
        """
        data = make()
        if data is None:
            return
        self.keep(key, data)
        store = self._context.writer(times.UPLOAD_S)
        published = store.publish_newest(bundle_of_value(KIND, key, data), timeout=times.UPLOAD_S)
        if published.place is not None:
            self._context.counters.add(published=int(published.created))
            self._record.note(KIND, key, published.place.variant)

    def _here(self, key: str, path: Path) -> bytes | None:
        """Return what lies here; None where there is nothing, where it cannot be read, or others may have put it."""
        try:
            value = inductor_cache.LocalValue(KIND, key, path)
            return inductor_cache.read_value(self._context.host().caches().inductor, value)
        except LocalCacheError as exc:
            self._context.waits.failed(exc)
            return None

    def _path(self, key: str) -> Path:
        return inductor_cache.value_path(self._context.host().caches().inductor, KIND, key, "")

    def _plan(self, key: str) -> SharedFetch:
        """Return the fetch of this key, and a new one if there is none."""
        with self._lock:
            return self._fetches.setdefault(key, SharedFetch(functools.partial(self._fetch, key), lambda _: None))

    def _fetch(self, key: str, timeout: float | None) -> Arrival:
        deadline = Deadline(timeout)
        store = self._context.reader(deadline.left)
        values = []
        for loaded in store.load(KIND, key, newest=1, timeout=deadline.left).bundles:
            try:
                values.append(Value("entry", value_of_bundle(loaded.bundle), loaded.manifest))
            except FormatError as exc:  # noqa: PERF203 - there is one at most
                self._context.waits.failed(exc)
        return Arrival(tuple(values))


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
