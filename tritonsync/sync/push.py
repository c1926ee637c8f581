"""A whole cache folder to the bucket: what `tritonsync push` does."""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from tritonsync.errors import FormatError, LocalCacheError
from tritonsync.format.bundle import CHANGING, GRAPHS, Bundle
from tritonsync.format.facts import why_unfit
from tritonsync.format.kernel import Kernel
from tritonsync.format.ranks import depends_on_rank
from tritonsync.format.value import bundle_of_value, facts_of_value
from tritonsync.format.workload import (
    LIST,
    MAX_PART,
    Workload,
    WorkloadEntry,
    bundle_of_part,
    bundle_of_workload,
    checked_path,
    in_parts,
    is_part,
    path_id,
)
from tritonsync.local import inductor_cache, triton_cache
from tritonsync.local.autotune import autotune_results, payloads_of_results, results_of
from tritonsync.local.inductor_cache import LocalValue
from tritonsync.local.triton_cache import KernelFolder
from tritonsync.remote.threads import Progress, in_parallel
from tritonsync.store import Published, Store
from tritonsync.store.copies import publish_copies
from tritonsync.store.sweep import missing_entries
from tritonsync.sync.caches import LocalCaches, gather

__all__ = ["Pushed", "push"]

log = logging.getLogger(__name__)

#: Hash and device.
KernelName = tuple[str, "int | None"]

#: Bundles of values in flight at a time: enough to hide round trips, few enough to hold in memory.
BUNDLES_AT_ONCE = 4


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What a push did, or would do.

    Attributes:
        kernels: kernels in the folder.
        kernels_new: of those, what the bucket lacked; of a dry run, those of the bundles that it lacks.
        bundles: bundles that were made of the folder: of values, of autotune results, of kernels, and the workload's.
        bundles_new: of those, what the bucket lacked.
        bytes_new: content of these, before it is packed.
        objects_created: in the bucket.
        bytes_uploaded: content of these objects.
        requests: to the bucket.
    """

    kernels: int
    kernels_new: int
    bundles: int
    bundles_new: int
    bytes_new: int
    objects_created: int
    bytes_uploaded: int
    requests: int


def push(
    store: Store,
    caches: LocalCaches,
    triton_dir: Path,
    workload: str,
    *,
    dry_run: bool = False,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Publish every value and kernel of the local caches, and a workload that lists them.

    When it returns, all of it is in the bucket: packs, manifests, payload objects and kernel folders. Values that may
    hold code for one rank of a job are left out, with one warning: a folder does not tell for which.

    Args:
        store: where to.
        caches: where from.
        triton_dir: the folder that holds kernel folders, or one folder a device with kernel folders.
        workload: its name.
        dry_run: publish nothing, and find out what would be.
        timeout: seconds for each bundle.
        progress: called with (done, all) bundles.

    Raises:
        RemoteError: the bucket could not be asked, or refused a write.
        LocalCacheError: a folder cannot be read.
        FormatError: the path of Inductor's folder is not UTF-8; nothing is published then.
    """
    before = store.bucket.stats
    # Before anything is published that a list with this path could not name.
    inductor_dir = checked_path(str(caches.inductor))
    pushing = _Push(store, caches, timeout, dry_run=dry_run)
    values = list(inductor_cache.values(caches.inductor))
    results = [
        result
        for result in in_parallel(pushing.value, values, BUNDLES_AT_ONCE, progress).values()
        if result is not None
    ]
    pushing.say_left_out()
    entries = [entry for entry, _ in results]
    of_values = {kernel for _, kernels in results for kernel in kernels}
    covered = of_values | {(name, None) for name, _ in of_values}
    # The last part is the workload's own bundle, which is published when all that it lists is there.
    own: tuple[Kernel, ...] = ()
    count = 0
    plain = [folder for folder in triton_cache.scan(triton_dir) if (folder.hash, folder.device) not in covered]
    parts = max(-(-sum(triton_cache.size_of(folder.path) for folder in plain) // MAX_PART), 1)
    for number, part in enumerate(in_parts(_collected(plain))):
        if own:
            entries.append(pushing.publish(bundle_of_part(own)))
            if progress is not None:
                progress(len(values) + number, len(values) + max(parts, number + 1))
        own, count = part, count + len(part)
    if not entries and not own:
        raise LocalCacheError(f"nothing to push: nothing in {caches.inductor} and {triton_dir} is finished and intact")
    listed = Workload(
        inductor_dir=inductor_cache.public_path(inductor_dir), entries=tuple(entries), path_id=path_id(inductor_dir)
    )
    own_bundle = bundle_of_workload(workload, listed, own)
    published = pushing.published(own_bundle, inline=(LIST,))
    if pushing.look_again(values, lambda: in_parts(_collected(plain))):
        published = pushing.published(own_bundle, inline=(LIST,))
    if published is not None and published.place is not None:
        publish_copies(store.bucket, published.place, entries, timeout=timeout)
    after = store.bucket.stats
    return Pushed(
        kernels=len(of_values) + count,
        kernels_new=len(pushing.kernels_new),
        bundles=pushing.bundles,
        bundles_new=pushing.bundles_new,
        bytes_new=pushing.bytes_new,
        objects_created=after.objects_created - before.objects_created,
        bytes_uploaded=after.bytes_up - before.bytes_up,
        requests=after.requests - before.requests,
    )


class _Push:
    """One push: what its bundles share, and what is counted."""

    def __init__(self, store: Store, caches: LocalCaches, timeout: float | None, *, dry_run: bool = False) -> None:
        self.store, self.caches, self.timeout, self.dry_run = store, caches, timeout, dry_run
        self.autotune = autotune_results(caches.inductor)
        self.kernels_new: set[str] = set()
        self.bundles = self.bundles_new = self.bytes_new = 0
        self._counted: set[str] = set()
        self._was_there: set[WorkloadEntry] = set()
        self.left_out: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def value(self, value: LocalValue) -> tuple[WorkloadEntry, frozenset[KernelName]] | None:
        """Publish one value, and the autotune results that belong to it; None if it is gone meanwhile, or left out.

        Returns:
            what a workload says of it, and the names of its kernels: thousands of kernels would not stay in memory.
        """
        try:
            data = inductor_cache.read_value(self.caches.inductor, value)
        except LocalCacheError as exc:
            log.warning("a value is left out: %s", exc)
            return None
        if data is None:
            return None
        if not inductor_cache.is_intact(value, data):
            log.warning("%s is left out: it was damaged here, its content is not what its name says", value.path)
            return None
        why = _why_left_out(value.kind, data)
        if why is not None:
            with self._lock:
                self.left_out[why] += 1
            return None
        if value.kind not in GRAPHS:
            bundle = bundle_of_value(value.kind, value.key, data)
            return self.publish(bundle), _names(bundle)
        facts = facts_of_value(data)
        bundle = gather(value.kind, value.key, data, facts, self.caches, cpu=self.store.cpu)
        entry = self.publish(bundle)
        results = payloads_of_results(results_of(self.autotune, facts))
        if results:
            self._publish_autotune(value, results)
        return entry, _names(bundle)

    def say_left_out(self) -> None:
        """Say, once for each reason, how many values are left out."""
        for why, count in sorted(self.left_out.items()):
            log.warning("%d %s left out: %s", count, "value is" if count == 1 else "values are", why)

    def publish(self, bundle: Bundle) -> WorkloadEntry:
        """Publish one bundle in full, and return what a workload says of it."""
        published = self.published(bundle)
        entry = WorkloadEntry(kind=bundle.kind, key=bundle.key, variant=bundle.variant)
        if published is not None and not published.created:
            with self._lock:
                self._was_there.add(entry)
        return entry

    def published(self, bundle: Bundle, *, inline: Collection[str] = ()) -> Published | None:
        """Publish one bundle in full; a dry run looks whether it is there, and returns None."""
        if self.dry_run:
            is_new = not self.store.holds(bundle, timeout=self.timeout)
            hashes = {kernel.hash for kernel in bundle.kernels} if is_new else ()
            self._count(f"{bundle.kind}/{bundle.key}/{bundle.variant}", hashes, is_new, _size(bundle))
            return None
        if bundle.kind in CHANGING:
            published = self.store.publish_newest(bundle, reread=True, inline=inline, timeout=self.timeout)
        else:
            published = self.store.publish(bundle, reread=True, inline=inline, timeout=self.timeout)
        kernels = self.store.complete(published, timeout=self.timeout)
        self._count(str(published.place), kernels, published.created, _size(bundle))
        return published

    def look_again(self, values: Iterable[LocalValue], parts: Callable[[], Iterable[tuple[Kernel, ...]]]) -> bool:
        """Publish again what was there before this push and is not any more, now that the list names it.

        `tritonsync gc` may have found that nobody names it, a moment before the list came.

        Returns:
            whether something was.
        """
        lost = set() if self.dry_run else missing_entries(self.store.bucket, self._was_there)
        if not lost:
            return False
        log.warning("%d bundles were removed from the bucket meanwhile; they are published again", len(lost))
        keys = {(entry.kind, entry.key) for entry in lost}
        in_parallel(self.value, [value for value in values if (value.kind, value.key) in keys], BUNDLES_AT_ONCE)
        if any(is_part(entry) for entry in lost):
            for part in parts():
                self.publish(bundle_of_part(part))
        return True

    def _publish_autotune(self, value: LocalValue, results: Mapping[str, bytes]) -> None:
        if self.dry_run:
            there = self.store.load(value.kind, value.key, newest=1, have=lambda _: True, timeout=self.timeout).autotune
            name, is_new = f"{value.kind}/{value.key}", not results.keys() <= there.keys()
        else:
            published = self.store.publish_autotune(value.kind, value.key, results, timeout=self.timeout)
            name, is_new = str(published.place), published.created
        self._count(name, (), is_new, sum(map(len, results.values())))

    def _count(self, name: str, kernels_new: Collection[str], is_new: bool, size: int) -> None:
        with self._lock:
            self.kernels_new.update(kernels_new)
            if name in self._counted:
                return  # guards of one graph share their results
            self._counted.add(name)
            self.bundles += 1
            self.bundles_new += is_new
            self.bytes_new += size if is_new else 0


def _size(bundle: Bundle) -> int:
    kernels = sum(file.size for kernel in bundle.kernels for file in kernel.files)
    return kernels + sum(len(payload.data) for payload in bundle.payloads)


def _names(bundle: Bundle) -> frozenset[KernelName]:
    return frozenset((kernel.hash, kernel.device) for kernel in bundle.kernels)


def _why_left_out(kind: str, data: bytes) -> str | None:
    """Say why a value is not to be published by somebody who did not make it; None where it is."""
    if kind == "pgo":  # has the rank in its key, and no code
        return None
    if depends_on_rank(data):
        return (
            "made with DTensors, device meshes, collectives, tensor subclasses or custom passes, they may hold code "
            "for one rank of a job, and a folder does not tell for which; let the job itself publish them (set "
            "TRITONSYNC_URL for it)"
        )
    return why_unfit(data)


def _collected(folders: Iterable[KernelFolder]) -> Iterator[Kernel]:
    """Collect the finished kernels among these folders; one that cannot be read is left out whole."""
    for folder in folders:
        try:
            kernel = triton_cache.collect(folder.path, folder.device)
        except (LocalCacheError, FormatError) as exc:
            log.warning("kernel %s is left out: %s", folder.hash, exc)
            continue
        if kernel is not None:
            yield kernel
