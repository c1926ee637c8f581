"""From the bucket into the caches of this host, while a program runs.

A key is fetched once a process, whoever asks first, and once a host, by a lock beside the caches. What arrives is
written where torch and Triton look for it, so nothing is kept in memory here but what is needed to count and to heal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from tritonsync import times
from tritonsync.errors import FormatError, TritonSyncError
from tritonsync.format.bundle import GRAPHS
from tritonsync.format.manifest import Manifest
from tritonsync.format.ranks import is_variant_of_another, required_rank
from tritonsync.format.workload import WorkloadEntry
from tritonsync.local.inductor_cache import value_path
from tritonsync.local.owners import note_owner
from tritonsync.local.presence import is_key_here
from tritonsync.remote.threads import in_parallel, start_thread
from tritonsync.remote.waiting import Deadline
from tritonsync.session.context import Context
from tritonsync.store.copies import Copies
from tritonsync.store.reader import Found
from tritonsync.sync.caches import LocalCaches, is_here, restore

__all__ = ["Arrival", "Incoming", "SharedFetch", "Value", "name_of"]

log = logging.getLogger(__name__)

#: Bundles that are fetched ahead at a time, and at most in one run.
AHEAD_AT_ONCE = 4
MAX_AHEAD = 256


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of torch that is in Inductor's folder now.

    Attributes:
        name: its file name there.
        data: its bytes.
        manifest: of the bundle it came in; None if another process of this host fetched it.
    """

    name: str
    data: bytes = dataclasses.field(repr=False)
    manifest: Manifest | None


@dataclasses.dataclass(frozen=True)
class Arrival:
    """What a look into the bucket brought.

    Attributes:
        values: those that the caller has not seen, best first.
        asked: whether the bucket was asked; if not, asking again may bring more.
    """

    values: tuple[Value, ...] = ()
    asked: bool = True


class SharedFetch:
    """A fetch that is planned, running or done. Whoever comes first runs it, the others wait for what it brings."""

    def __init__(self, work: Callable[[float | None], Arrival], done: Callable[[SharedFetch], None]) -> None:
        self._work = work
        self._done = done
        self._lock = threading.Lock()
        self._claimed = False
        self._arrival: Future[Arrival] = Future()

    def run(self, timeout: float | None) -> None:
        """Fetch, in so many seconds, unless somebody else has begun."""
        with self._lock:
            if self._claimed:
                return
            self._claimed = True
        try:
            self._arrival.set_result(self._work(timeout))
        except BaseException as exc:
            self._arrival.set_exception(exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            self._done(self)

    @property
    def brought(self) -> Arrival | None:
        """What it has brought; None: it is not done, or has failed."""
        is_over = self._arrival.done() and self._arrival.exception() is None
        return self._arrival.result() if is_over else None

    def run_or_wait(self, timeout: float | None) -> Arrival:
        """Fetch, or wait for who does; raise what that raised, or `TimeoutError` if it is not done in time."""
        self.run(timeout)
        return self._arrival.result(timeout)


class _Copies:
    """The copies of what a workload lists, fetched when they are first wanted."""

    def __init__(self, context: Context, workload: Manifest) -> None:
        self._context, self._workload = context, workload
        self._lock = threading.Lock()
        self._copies: Future[Copies | None] | None = None

    def get(self, timeout: float | None) -> Copies | None:
        """Wait for them; None where there are none.

        Raises:
            TritonSyncError, TimeoutError: the bucket could not be asked, or does not answer in time.
        """
        with self._lock:
            if self._copies is None:
                self._copies = start_thread(self._fetch)
        return self._copies.result(timeout)

    def _fetch(self) -> Copies | None:
        return self._context.reader(times.BACKGROUND_S).copies_of(self._workload, timeout=times.BACKGROUND_S)


class Incoming:
    """Fetches bundles of torch's caches.

    Args:
        context: of the session.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._fetches: dict[tuple[str, str], SharedFetch] = {}
        self._expected: dict[tuple[str, str], frozenset[str]] = {}
        self._unusable: dict[tuple[str, str, str], int] = {}
        self._damaged: set[tuple[str, str, str]] = set()
        self._autotune: dict[tuple[str, str], set[str]] = {}
        self._brought: dict[tuple[str, str], dict[str, Manifest]] = {}
        self._ahead: dict[tuple[str, str], Path] = {}
        self._ahead_entries: Sequence[WorkloadEntry] = ()
        self._ahead_list: Manifest | None = None
        self._ahead_folder: Path | None = None

    def fetch(self, kind: str, key: str, seen: Collection[str]) -> Arrival:
        """Let the program wait, within its budget, until values of a key are here; trouble of any kind brings none.

        Args:
            kind: `fx_graph` or `aot_autograd`.
            key: the key there.
            seen: file names of values that the caller has tried.
        """
        return self._wait_for(self._plan(kind, key, lambda seconds: self._fetch(kind, key, seen, seconds)))

    def settled_names(self, kind: str, key: str) -> frozenset[str]:
        """Wait, within the budget, for a fetch of this key that is under way, and return what `names` then does."""
        self._follow()
        fetch = self.under_way(kind, key)
        if fetch is not None:
            # One that is only planned would wait for its turn among the others: it is run here.
            self._wait_for(fetch)
        return self.names(kind, key)

    def under_way(self, kind: str, key: str) -> SharedFetch | None:
        """Return the fetch of this key, if one is under way or planned."""
        with self._lock:
            return self._fetches.get((kind, key))

    def fetch_variants(self, kind: str, graphs: Mapping[str, Collection[str]]) -> None:
        """Begin to fetch exactly these variants of these keys, all at once; those that are here are left alone."""
        for key, variants in graphs.items():
            with self._lock:
                self._expected[kind, key] = self._expected.get((kind, key), frozenset()) | frozenset(variants)
            if self._is_wanted(kind, key):
                start_thread(functools.partial(self._in_background(kind, key).run, times.BACKGROUND_S))

    def fetch_ahead(self, entries: Sequence[WorkloadEntry], workload: Manifest | None = None) -> None:
        """Fetch what an earlier run used, a few at a time; return when that is done.

        Args:
            entries: what it used.
            workload: the list's manifest; where most of what is listed is not here, copies that lie beside it are used.
        """
        rank = self._context.host().rank()
        mine = [entry for entry in entries if not is_variant_of_another(entry.variant, rank)][:MAX_AHEAD]
        graphs = [entry for entry in mine if entry.kind in GRAPHS]
        wanted: dict[tuple[str, str], set[str]] = {}
        for entry in graphs:
            if self._is_wanted(entry.kind, entry.key):
                wanted.setdefault((entry.kind, entry.key), set()).add(entry.variant)
        folder = self._context.host().caches().inductor
        with self._lock:
            self._ahead.update(dict.fromkeys(wanted, folder))
            self._ahead_entries, self._ahead_list, self._ahead_folder = entries, workload, folder
        are_most = 2 * len(wanted) > len({(entry.kind, entry.key) for entry in graphs})
        copies = _Copies(self._context, workload) if workload is not None and are_most else None
        planned = {self._in_background(kind, key, frozenset(names), copies) for (kind, key), names in wanted.items()}
        if not planned:
            return
        with contextlib.ExitStack() as stack:
            if copies is not None:
                # One process of a host fetches them, and the others find everything here.
                stack.enter_context(self._context.host_lock(folder, "copies", Deadline(times.BACKGROUND_S)))
            in_parallel(lambda fetch: fetch.run(times.BACKGROUND_S), planned, AHEAD_AT_ONCE)

    def _follow(self) -> None:
        """At the first lookup: fetch ahead again if the program has chosen another folder meanwhile, a new one.

        vLLM and SGLang do so inside the first call, long after their plugins were loaded. A folder with graphs in it is
        left as it is: it may be a saved artifact, to which torch turns for a moment (`temporary_cache_dir`).
        """
        with self._lock:
            before, self._ahead_folder = self._ahead_folder, None
        if before is None:
            return
        folder = self._context.host().caches().inductor
        if before != folder and not any((folder / name).exists() for name in ("aotautograd", "fxgraph")):
            start_thread(lambda: self.fetch_ahead(self._ahead_entries, self._ahead_list))

    def fetched_ahead(self) -> Mapping[tuple[str, str], tuple[Path, Manifest]]:
        """Return, by kind and key, what `fetch_ahead` brought: into which Inductor folder, and a manifest of it."""
        with self._lock:
            brought = {graph: (folder, self._brought.get(graph)) for graph, folder in self._ahead.items()}
            return {graph: (folder, next(iter(of.values()))) for graph, (folder, of) in brought.items() if of}

    def came_from_bucket(self, kind: str, key: str) -> Mapping[str, Manifest]:
        """Return the manifests of what this process brought here for a key, by variant."""
        with self._lock:
            return dict(self._brought.get((kind, key), {}))

    def unusable(self, kind: str, key: str, variant: str) -> int:
        """Return the generation of a variant that is intact and makes no sense; -1 for none."""
        with self._lock:
            return self._unusable.get((kind, key, variant), -1)

    def is_damaged(self, kind: str, key: str, variant: str) -> bool:
        """Return whether what the bucket holds of a variant looked damaged."""
        with self._lock:
            return (kind, key, variant) in self._damaged

    def autotune(self, kind: str, key: str) -> frozenset[str]:
        """Return the names of the autotune results that came with a key."""
        with self._lock:
            return frozenset(self._autotune.get((kind, key), ()))

    def names(self, kind: str, key: str) -> frozenset[str]:
        """Return the file names of the values of a key that are in Inductor's folder."""
        try:
            return frozenset(file.name for file in self._folder(kind, key).iterdir() if not file.name.startswith("."))
        except (OSError, FormatError):
            return frozenset()

    def _folder(self, kind: str, key: str) -> Path:
        return value_path(self._context.host().caches().inductor, kind, key, "0" * 64).parent

    def _is_wanted(self, kind: str, key: str) -> bool:
        return self.under_way(kind, key) is None and not is_key_here(self._context.host().caches().inductor, kind, key)

    def _in_background(
        self, kind: str, key: str, variants: frozenset[str] | None = None, copies: _Copies | None = None
    ) -> SharedFetch:
        def work(timeout: float | None) -> Arrival:
            try:
                return self._fetch(kind, key, (), timeout, variants, copies)
            except TritonSyncError as exc:
                # Whoever waits for it asks again, and meets the error itself.
                self._context.waits.failed(exc)
                return Arrival(asked=False)

        return self._plan(kind, key, work)

    def _wait_for(self, fetch: SharedFetch) -> Arrival:
        waits = self._context.waits
        return waits.wait_for(
            lambda: fetch.run_or_wait(waits.budget.left),
            Arrival(),
            lambda arrival: bool(arrival.values),
            lambda arrival: arrival.asked,
        )

    def _plan(self, kind: str, key: str, work: Callable[[float | None], Arrival]) -> SharedFetch:
        """Return the fetch of this key, and a new one for this work, given its seconds, if there is none."""

        def done(fetch: SharedFetch) -> None:
            with self._lock:
                if self._fetches.get((kind, key)) is fetch:
                    del self._fetches[kind, key]

        with self._lock:
            return self._fetches.setdefault((kind, key), SharedFetch(work, done))

    def _fetch(
        self,
        kind: str,
        key: str,
        seen: Collection[str],
        timeout: float | None,
        variants: frozenset[str] | None = None,
        copies: _Copies | None = None,
    ) -> Arrival:
        deadline = Deadline(timeout)
        store = self._context.reader(deadline.left)
        caches = self._context.host().caches()
        inductor = caches.inductor
        with self._context.host_lock(inductor, f"{kind}/{key}", deadline):
            # Another process of this host may have had the lock until now.
            fresh = sorted(self.names(kind, key) - set(seen))
            if fresh:
                return Arrival(tuple(self._read(kind, key, fresh)), asked=False)
            with self._lock:
                # Somebody who has tried some already is to see them all.
                variants = None if seen else self._expected.get((kind, key), variants)
            found = store.load_copied(
                None if copies is None else copies.get(deadline.left),
                kind,
                key,
                variants=variants,
                have=functools.partial(is_here, caches=caches) if is_key_here(inductor, kind, key) else None,
                timeout=deadline.left,
            )
            values = (*self._restore(kind, key, found, caches), *self._known_now(kind, key, found, inductor))
            return Arrival(values, asked=not found.copied)

    def _known_now(self, kind: str, key: str, found: Found, inductor: Path) -> Iterable[Value]:
        """Yield the values that were here already, and of which only the bucket knows that they are this rank's."""
        for manifest in found.present:
            owner, name = required_rank(manifest.environment.requires), name_of(manifest)
            if owner is not None and name is not None:
                note_owner(inductor, name, owner)
                for value in self._read(kind, key, [name]):
                    yield dataclasses.replace(value, manifest=manifest)

    def _restore(self, kind: str, key: str, found: Found, caches: LocalCaches) -> Iterable[Value]:
        with self._lock:
            self._damaged.update((kind, key, variant) for variant in found.damaged)
            self._autotune.setdefault((kind, key), set()).update(found.autotune)
        values = []
        for loaded in found.bundles:
            try:
                restored = restore(loaded.bundle, caches, autotune=found.autotune, files=self._context.settings.files)
            except FormatError as exc:
                log.warning("%s cannot be used: %s", loaded.place.prefix, exc)
                with self._lock:
                    self._unusable[kind, key, loaded.manifest.variant] = loaded.manifest.generation
                continue
            self._context.counters.add(kernels_fetched=restored.emitted, conflicts=len(restored.conflicts))
            if restored.value is not None:
                with self._lock:
                    self._brought.setdefault((kind, key), {})[loaded.manifest.variant] = loaded.manifest
                values.append(Value(name_of(loaded.manifest) or "", restored.value, loaded.manifest))
        return values

    def _read(self, kind: str, key: str, names: Iterable[str]) -> Iterable[Value]:
        folder = self._folder(kind, key)
        for name in names:
            try:
                yield Value(name, (folder / name).read_bytes(), None)
            except OSError as exc:  # noqa: PERF203 - each may fail by itself
                log.info("%s cannot be read: %s", folder / name, exc)


def name_of(manifest: Manifest) -> str | None:
    """Return the file name under which Inductor's folder holds the value of a bundle."""
    if manifest.value is None:
        return None
    return value_path(Path(), manifest.kind, manifest.key, manifest.value.sha256).name
