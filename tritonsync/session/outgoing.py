"""From the caches of this host into the bucket, while a program runs: everything here happens on upload threads."""

from __future__ import annotations

import dataclasses
import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable

from tritonsync import times
from tritonsync.errors import AccessDeniedError, LocalCacheError, UnsafeFolderError
from tritonsync.format.bundle import GRAPHS, Bundle
from tritonsync.format.facts import ValueFacts, why_unfit
from tritonsync.format.kernel import Kernel
from tritonsync.format.ranks import Rank
from tritonsync.format.value import bundle_of_value, facts_of_value
from tritonsync.format.workload import WorkloadEntry
from tritonsync.local import inductor_cache
from tritonsync.local.autotune import autotune_results, payloads_of_results, results_of
from tritonsync.local.sources import digests_of_sources
from tritonsync.messages import warn_once
from tritonsync.session.context import Context, Host
from tritonsync.session.incoming import Incoming, name_of
from tritonsync.session.uploads import Uploads
from tritonsync.session.workload import WorkloadRecord
from tritonsync.store import Published, Store
from tritonsync.store.sweep import missing_entries
from tritonsync.sync.caches import LocalCaches, gather

__all__ = ["Outgoing"]

log = logging.getLogger(__name__)

#: Ranks of uploads: first what makes a bundle exist, then what belongs to it, then what it can be loaded without.
PUBLISH, BELONGINGS, COMPLETE = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class _Maker:
    """What held for the program when torch made a value; it may be another when that is published."""

    caches: LocalCaches
    cpu: str
    rank: Rank | None
    has_custom_passes: bool

    @classmethod
    def of(cls, host: Host) -> _Maker:
        return cls(host.caches(), host.cpu(), host.rank(), host.has_custom_passes())


class Outgoing:
    """The upload queue, and what goes into it.

    Args:
        context: of the session.
        incoming: knows what came from the bucket.
        record: told of each bundle that is in the bucket now.
    """

    def __init__(self, context: Context, incoming: Incoming, record: WorkloadRecord) -> None:
        self._context, self._incoming, self._record = context, incoming, record
        self._writes = context.settings.may_write
        self._queue = Uploads(self._upload_failed)
        self._lock = threading.RLock()
        self._facts: dict[tuple[str, str], ValueFacts] = {}
        self._made: set[tuple[str, str]] = set()
        self._tuned: dict[tuple[str, str], set[str]] = {}
        self._saved: set[tuple[str, str]] = set()
        self._newest: dict[tuple[str, str], bytes] = {}
        self._created: set[WorkloadEntry] = set()
        self._look_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be uploaded."""
        return self._queue.is_idle

    def enqueue_value(
        self, kind: str, key: str, data: bytes, refused: Collection[str], sources: Collection[str] = ()
    ) -> None:
        """Queue a value that torch has just made, with its kernels.

        Args:
            kind: `fx_graph` or `aot_autograd`.
            key: the key there.
            data: the value.
            refused: file names of the values that torch was offered under this key, and made this one all the same.
            sources: files that the graph was traced from.
        """
        maker = _Maker.of(self._context.host())
        with self._lock:
            self._made.add((kind, key))
        self._submit(lambda: self._value(kind, key, data, frozenset(refused), maker, sources), size=len(data))

    def enqueue(self, make: Callable[[], Bundle | None], after: int = -1, reread: bool = False) -> None:
        """Queue the bundle that `make` returns on an upload thread. `after`, `reread`: see `Store.publish`."""

        def work() -> None:
            bundle = make()
            if bundle is not None and self._writes:
                store = self._context.writer(times.UPLOAD_S, bundle.kernels)
                self._published(bundle, store.publish(bundle, after=after, reread=reread, timeout=times.UPLOAD_S))

        self._submit(work)

    def enqueue_newest(self, kind: str, key: str, data: bytes) -> None:
        """Keep the latest state of a value that changes; it is published once, at the end."""
        with self._lock:
            self._newest[kind, key] = data

    def enqueue_late(self, work: Callable[[], None]) -> None:
        """Queue work that is complete only when the first calls after a compile are over."""
        if self._writes:
            self._queue.submit(work, rank=BELONGINGS, delay=times.AUTOTUNED_AFTER_S)

    def enqueue_work(self, work: Callable[[], None]) -> None:
        """Queue work that publishes by itself."""
        if self._writes:
            self._submit(work)

    def note_autotuned(self, folder: str, name: str) -> None:
        """Note that this process has saved an autotune result."""
        with self._lock:
            self._saved.add((folder, name))

    def flush(self, seconds: float, last: Iterable[Callable[[Store], None]] = ()) -> None:
        """Wait for what is queued, publish what belongs to it, and `last`; what takes longer than that is dropped."""
        end = time.monotonic() + seconds
        self._queue.flush(end - time.monotonic(), up_to=PUBLISH)
        if self._writes:
            with self._lock:
                newest, self._newest = self._newest, {}
            if self._record.graphs():
                self._queue.submit(self._autotune, rank=BELONGINGS)
            for (kind, key), data in newest.items():
                self._queue.submit(functools.partial(self._publish_newest, kind, key, data), rank=BELONGINGS)
            # `last` tells of what was published before.
            self._queue.flush(end - time.monotonic(), up_to=BELONGINGS)
            for work in last:
                self._queue.submit(functools.partial(self._finish, work), rank=BELONGINGS)
        self._queue.flush(end - time.monotonic())
        self._context.counters.add(dropped=self._queue.drop())

    def publish_record(self, store: Store, collect: Callable[[Collection[str]], Iterable[Kernel]]) -> None:
        """Publish the record of this run, if it says anything new. `collect`: see `WorkloadRecord.publish`.

        Raises:
            RemoteError: the bucket could not be asked, or refused the write.
        """
        if not self._record.is_new():
            return
        inductor = str(self._context.host().caches().inductor)
        unsure = self._record.publish(store, inductor, times.UPLOAD_S, collect)
        # `tritonsync gc` may have taken something that nobody named, a moment before this list came.
        lost = self._publish_again(store, unsure)
        if lost:
            self._record.forget(lost)
            self._record.publish(store, inductor, times.UPLOAD_S, collect)

    def _publish_again(self, store: Store, unsure: Collection[WorkloadEntry]) -> set[WorkloadEntry]:
        """Publish again, out of the caches of this host, what is not in the bucket any more of these entries of a list.

        Returns:
            what could not be published again.
        """
        with self._lock:
            old = set(unsure) - self._created
        lost = missing_entries(store.bucket, old)
        keys = {(entry.kind, entry.key) for entry in lost if entry.kind in GRAPHS}
        if not keys:
            return lost
        maker = _Maker.of(self._context.host())
        inductor = maker.caches.inductor
        for value in inductor_cache.values(inductor):
            data = inductor_cache.read_value(inductor, value) if (value.kind, value.key) in keys else None
            if data is None:
                continue
            bundle, _ = _gathered(value.kind, value.key, data, maker)
            entry = WorkloadEntry(kind=bundle.kind, key=bundle.key, variant=bundle.variant)
            if entry in lost:
                self._published(bundle, store.publish(bundle, timeout=times.UPLOAD_S))
                lost.discard(entry)
        return lost

    def close(self) -> None:
        """Drop what is still queued, and take no more."""
        self._context.counters.add(dropped=self._queue.close())

    def _submit(self, work: Callable[[], None], *, rank: int = PUBLISH, size: int = 0) -> None:
        delay = random.uniform(0, times.HERD_S) if rank == PUBLISH else 0.0  # noqa: S311 - not a secret
        if not self._queue.submit(work, rank=rank, delay=delay, size=size):
            self._context.counters.add(dropped=1)
            warn_once(log, "queue", "the upload queue is full; some results of this run will not be in the bucket")

    def _value(
        self, kind: str, key: str, data: bytes, refused: frozenset[str], maker: _Maker, sources: Collection[str]
    ) -> None:
        bundle, facts = _gathered(kind, key, data, maker, sources)
        with self._lock:
            self._facts[kind, key] = facts
            if any(("fx_graph", graph) in self._made for graph, _ in facts.fx_graphs):
                # It was no use because one of its graphs was not to be had; there is nothing wrong with it.
                refused = frozenset()
        self._context.counters.add(kernels_compiled=len({kernel.hash for kernel in bundle.kernels}))
        why = why_unfit(data)
        if why is not None:
            warn_once(log, why, "a graph is left out of the bucket: %s", why)
        if why is not None or not self._writes:
            return
        store = self._context.writer(times.UPLOAD_S)
        after = self._incoming.unusable(kind, key, bundle.variant)
        if refused:
            there = store.load(
                kind, key, variants=(bundle.variant,), have=lambda _: True, timeout=times.UPLOAD_S
            ).present
            after = max([after, *(manifest.generation for manifest in there if name_of(manifest) in refused)])
        reread = self._incoming.is_damaged(kind, key, bundle.variant)
        self._published(bundle, store.publish(bundle, after=after, reread=reread, timeout=times.UPLOAD_S))
        with self._lock:
            soon = time.monotonic() >= self._look_at
            if soon:
                self._look_at = time.monotonic() + times.AUTOTUNED_AFTER_S
        if soon:
            self._queue.submit(self._autotune, rank=BELONGINGS, delay=times.AUTOTUNED_AFTER_S)

    def _published(self, bundle: Bundle, published: Published) -> None:
        if published.place is None:
            return
        self._record.note(bundle.kind, bundle.key, bundle.variant)
        if published.created:
            with self._lock:
                self._created.add(WorkloadEntry(kind=bundle.kind, key=bundle.key, variant=bundle.variant))
            self._context.counters.add(published=1)
            size = sum(kernel.size for kernel in bundle.kernels) + sum(p.size for p in bundle.payloads)
            self._queue.submit(
                lambda: self._complete(published), rank=COMPLETE, size=size
            )  # full: the bundle can be loaded without

    def _complete(self, published: Published) -> None:
        self._context.writer(times.UPLOAD_S).complete(published, timeout=times.UPLOAD_S)

    def _finish(self, work: Callable[[Store], None]) -> None:
        work(self._context.writer(times.UPLOAD_S))

    def _publish_newest(self, kind: str, key: str, data: bytes) -> None:
        published = self._context.writer(times.UPLOAD_S).publish_newest(
            bundle_of_value(kind, key, data), timeout=times.UPLOAD_S
        )
        if published.place is not None:
            self._context.counters.add(published=int(published.created))
            self._record.note(kind, key, published.place.variant)

    def _autotune(self) -> None:
        """Publish autotune results, each with the graphs it belongs to.

        For graphs made here, all that there are: an older graph may have the same kernel. For others, what this process
        has saved.
        """
        inductor = self._context.host().caches().inductor
        results = autotune_results(inductor)
        with self._lock:
            recent = [result for result in results if (result.folder, result.name) in self._saved]
            graphs = sorted(self._record.graphs() if recent else self._record.graphs() & self._made)
        for kind, key in graphs:
            chosen = results if (kind, key) in self._made else recent
            mine = payloads_of_results(results_of(chosen, self._facts_of(kind, key)))
            known = self._incoming.autotune(kind, key) | self._tuned.setdefault((kind, key), set())
            new = {name: data for name, data in mine.items() if name not in known}
            if new:
                self._context.writer(times.UPLOAD_S).publish_autotune(kind, key, new, timeout=times.UPLOAD_S)
                self._tuned[kind, key].update(new)

    def _facts_of(self, kind: str, key: str) -> ValueFacts:
        """Return the facts of a graph, which is read again where this process did not make it."""
        with self._lock:
            known = self._facts.get((kind, key))
        if known is None:
            known = ValueFacts()
            inductor = self._context.host().caches().inductor
            folder = inductor_cache.value_path(inductor, kind, key, "0" * 64).parent
            for name in self._incoming.names(kind, key):
                data = inductor_cache.read_value(inductor, inductor_cache.LocalValue(kind, key, folder / name))
                facts = ValueFacts() if data is None else facts_of_value(data)
                known = ValueFacts(
                    kernel_sources=known.kernel_sources | facts.kernel_sources,
                    kernel_hashes=known.kernel_hashes | facts.kernel_hashes,
                )
            with self._lock:
                self._facts[kind, key] = known
        return known

    def _upload_failed(self, exc: Exception) -> None:
        self._context.counters.add(dropped=1)
        if isinstance(exc, AccessDeniedError):
            self._writes = False
            warn_once(log, "denied", "this run publishes nothing: %s", exc)
        elif isinstance(exc, LocalCacheError) and not isinstance(exc, UnsafeFolderError):
            warn_once(log, "local", "a result is left out: %s", exc)
        else:
            self._context.waits.failed(exc)


def _gathered(
    kind: str, key: str, data: bytes, maker: _Maker, sources: Collection[str] = ()
) -> tuple[Bundle, ValueFacts]:
    """Return the bundle of a value that torch has made here, and what is known of the value.

    Args:
        kind: `fx_graph` or `aot_autograd`.
        key: the key there.
        data: the value.
        maker: what held for the program then.
        sources: paths of the files that it was traced from, as far as they are known.
    """
    facts = facts_of_value(data)
    if maker.has_custom_passes:
        facts = dataclasses.replace(facts, is_ranked=True)
    digests = digests_of_sources(sources)
    bundle = gather(kind, key, data, facts, maker.caches, cpu=maker.cpu, rank=maker.rank, sources=digests)
    return bundle, facts
