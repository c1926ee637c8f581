"""The workload: what one run used, kept under its name so that the next start can fetch it before it is asked for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from tritonsync import times
from tritonsync.errors import FormatError
from tritonsync.format.bundle import GRAPHS
from tritonsync.format.kernel import Kernel
from tritonsync.format.layout import workload_key
from tritonsync.format.manifest import Environment, Manifest, time_ago
from tritonsync.format.workload import (
    LIST,
    Workload,
    WorkloadEntry,
    bundle_of_part,
    bundle_of_workload,
    in_parts,
    is_part,
    path_id,
    workload_of_manifest,
)
from tritonsync.local.inductor_cache import public_path
from tritonsync.messages import warn_once
from tritonsync.settings import VARIABLES
from tritonsync.store import Store
from tritonsync.store.copies import publish_copies
from tritonsync.sync.environment import with_target

__all__ = ["WorkloadRecord", "entries_of"]

log = logging.getLogger(__name__)


class WorkloadRecord:
    """What this run uses, next to what the last one used.

    Args:
        name: of the workload; None: nothing is recorded.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._lock = threading.RLock()
        self._began = time_ago(0)
        self._last: frozenset[WorkloadEntry] = frozenset()
        self._kernels: frozenset[str] = frozenset()
        #: Hashes of the kernels in the listed bundles of many, as far as they are known.
        self._parts: dict[WorkloadEntry, frozenset[str]] = {}
        self._last_made: Environment | None = None
        self._last_created = ""
        self._is_outdated = False
        self._known: set[WorkloadEntry] = set()
        self._gone: set[WorkloadEntry] = set()
        self._keys: set[tuple[str, str]] = set()

    def note(self, kind: str, key: str, *variants: str) -> None:
        """Note that a key was used; with those of its variants that are known to be in the bucket."""
        with self._lock:
            self._keys.add((kind, key))
            noted = {WorkloadEntry(kind=kind, key=key, variant=variant) for variant in variants}
            self._known |= noted
            self._gone -= noted

    def note_part(self, part: WorkloadEntry, kernels: frozenset[str]) -> None:
        """Note which kernels, by hash, a listed bundle of many holds."""
        with self._lock:
            self._parts[part] = kernels

    def graphs(self) -> set[tuple[str, str]]:
        """Return kind and key of the graphs that were used."""
        with self._lock:
            return {(kind, key) for kind, key in self._keys if kind in GRAPHS}

    def load(self, store: Store) -> Manifest | None:
        """Return the manifest of what the last run used, None if there is none.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        last = self._newest(store, None)
        with self._lock:
            self._last = frozenset(entries_of(last))
            self._kernels = frozenset(kernel.hash for kernel in last.kernels) if last else frozenset()
            self._last_made = last.environment if last else None
            self._last_created = last.created if last else ""
        return last

    def outdated(self) -> None:
        """Note that something in the last run's record proved unusable."""
        self._is_outdated = True

    def is_new(self) -> bool:
        """Whether this run used something in the bucket that the last one did not, or has better, or has to renew."""
        with self._lock:
            return self.name is not None and (self._has_changed or self._is_old(self._last_created))

    @property
    def _has_changed(self) -> bool:
        return self._is_outdated or not self._known - self._gone <= self._last

    def _is_old(self, created: str) -> bool:
        """Whether a list of that time looks as if nobody needed it, though this run uses something of the last one."""
        listed = {(entry.kind, entry.key) for entry in self._last}
        listed |= {("triton", key) for key in self._kernels.union(*self._parts.values())}
        return created <= time_ago(times.RENEW_LIST_S) and not listed.isdisjoint(self._keys)

    def _is_of_another(self, environment: Environment) -> bool:
        """Whether the last record seems to be of another program: made in the same place, with nothing that is used."""
        theirs, ours = self._last_made, environment
        if theirs is None or (theirs.torch, theirs.triton, theirs.device) != (ours.torch, ours.triton, ours.device):
            return False  # then all keys are others
        listed = {(entry.kind, entry.key) for entry in self._last if not is_part(entry)}
        return bool(listed and self._keys) and not listed & self._keys

    def publish(
        self,
        store: Store,
        inductor_dir: str,
        timeout: float,
        collect: Callable[[Collection[str]], Iterable[Kernel]] = lambda _: (),
    ) -> frozenset[WorkloadEntry]:
        """Publish the record. Runs of one name that overlap, such as the ranks of a job, add to each other.

        Args:
            store: where to.
            inductor_dir: Inductor's folder of this host.
            timeout: seconds.
            collect: reads, of the kernels with these hashes, those that this run used and the bundle is to hold.

        Returns:
            what the published list names and may not be in the bucket any more. What the list before it names is there
            while that is young: no `tritonsync gc` takes it, and it counts for some time after it was superseded.

        Raises:
            RemoteError: the bucket could not be asked, or refused the write.
        """
        if self.name is None:
            return frozenset()
        before = self._newest(store, timeout)
        named_before = frozenset(entries_of(before))
        is_young = before is not None and time_ago(times.YOUNG_LIST_S) < before.created < time_ago(-times.YOUNG_LIST_S)
        with self._lock:
            # A list that is only renewed loses nothing: this run may have used a part of what others use.
            is_added = before is not None and (before.created >= self._began or not self._has_changed)
            newest = before if is_added else None
            anew = before is not None and self._is_old(before.created)
            if self._is_of_another(store.environment):
                log.warning(
                    "workload %r listed %d graphs and kernels, and this run used none of them; if another program has "
                    "the same name, give each its own with %s",
                    self.name,
                    len(self._last),
                    VARIABLES["workload"][0],
                )
            parts = self._parts_that_stay()
            kept = {entry for entry in self._last if self._stays(entry, parts)}
            entries = (kept | self._known | (named_before if newest else set())) - self._gone
            wanted = {entry.key for entry in entries if entry.kind == "triton" and not is_part(entry)}
            packed = self._kernels.union(*self._parts.values())
            wanted |= {key for key in packed if ("triton", key) in self._keys}
            wanted.difference_update(*parts.values())
        own: tuple[Kernel, ...] = ()
        here = set[str]().union(*parts.values())
        for part in in_parts(_united(collect(wanted), here, store, newest, timeout)):
            if own:
                parts[_publish_part(store, own, timeout)] = _hashes(own)
            own = part
        entries |= parts.keys()
        listed = Workload(
            inductor_dir=public_path(inductor_dir), entries=tuple(sorted(entries)), path_id=path_id(inductor_dir)
        )
        place = (
            _made_of(store, own)
            .publish_newest(bundle_of_workload(self.name, listed, own), anew=anew, inline=(LIST,), timeout=timeout)
            .place
        )
        with self._lock:
            self._last, self._kernels, self._parts = frozenset(entries), _hashes(own), parts
            self._is_outdated, self._last_created = False, time_ago(0)
        if place is not None:
            publish_copies(store.bucket, place, entries, timeout=timeout)
        return frozenset(entries) - (named_before if is_young else frozenset())

    def _parts_that_stay(self) -> dict[WorkloadEntry, frozenset[str]]:
        """Return the bundles of many that the next list names too, as far as their kernels are known.

        One of which nothing is used goes, and all where something proved unusable: what is used of them is packed anew.
        """
        used = {key for kind, key in self._keys if kind == "triton"}
        return {} if self._is_outdated else {part: of for part, of in self._parts.items() if of & used}

    def _stays(self, entry: WorkloadEntry, parts: Collection[WorkloadEntry]) -> bool:
        """Whether the next list names what the last one did."""
        if is_part(entry):
            return entry in parts or entry not in self._parts
        return (entry.kind, entry.key) in self._keys

    def forget(self, entries: Collection[WorkloadEntry]) -> None:
        """Note that these bundles are not in the bucket any more, so that the next list does not name them."""
        with self._lock:
            self._gone |= set(entries)
            self._is_outdated = True

    def _newest(self, store: Store, timeout: float | None) -> Manifest | None:
        if self.name is None:
            return None
        found = store.load("workload", workload_key(self.name), newest=1, have=lambda _: True, timeout=timeout)
        return found.present[0] if found.present else None


def entries_of(manifest: Manifest | None) -> Sequence[WorkloadEntry]:
    """Return what a record lists, with a warning where something in it, or all of it, cannot be used."""
    if manifest is None:
        return ()
    try:
        workload = workload_of_manifest(manifest)
    except FormatError as exc:
        log.warning("left out of the cache: %s", exc)
        return ()
    if workload.refused:
        warn_once(log, workload.refusal, "%s", workload.refusal)
    return workload.entries


def _united(
    kernels: Iterable[Kernel], here: set[str], store: Store, newest: Manifest | None, timeout: float | None
) -> Iterator[Kernel]:
    """Yield these kernels, and those of another run's record that are not `here`, nor among these."""
    for kernel in kernels:
        here.add(kernel.hash)
        yield kernel
    if newest is not None and not {kernel.hash for kernel in newest.kernels} <= here:
        found = store.load("workload", newest.key, variants=(newest.variant,), timeout=timeout)
        theirs = (kernel for loaded in found.bundles for kernel in loaded.bundle.kernels)
        yield from (kernel for kernel in theirs if kernel.hash not in here)


def _publish_part(store: Store, kernels: tuple[Kernel, ...], timeout: float | None) -> WorkloadEntry:
    bundle = bundle_of_part(kernels)
    _made_of(store, kernels).publish(bundle, timeout=timeout)
    return WorkloadEntry(kind=bundle.kind, key=bundle.key, variant=bundle.variant)


def _made_of(store: Store, kernels: Iterable[Kernel]) -> Store:
    """Return the same store, whose manifests state the target of these kernels."""
    return store.on_host(cpu=store.cpu, rank=store.rank, environment=with_target(store.environment, kernels))


def _hashes(kernels: Iterable[Kernel]) -> frozenset[str]:
    return frozenset(kernel.hash for kernel in kernels)
