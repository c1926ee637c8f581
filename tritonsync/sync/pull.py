"""A workload from the bucket into a whole cache folder: what `tritonsync pull` does."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from tritonsync.errors import FormatError, UnknownWorkloadError
from tritonsync.format.bundle import CHANGING
from tritonsync.format.layout import workload_key
from tritonsync.format.manifest import Manifest
from tritonsync.format.ranks import is_variant_of_another
from tritonsync.format.workload import Workload, WorkloadEntry, is_part, workload_of_manifest
from tritonsync.local.files import host_lock
from tritonsync.local.presence import is_kernel_here, is_key_here, is_value_here
from tritonsync.remote.threads import Progress, in_parallel, start_thread
from tritonsync.settings import Files
from tritonsync.store import Found, Loaded, Store
from tritonsync.store.copies import Copies
from tritonsync.sync.caches import LocalCaches, are_empty, is_here, restore, sweep

__all__ = ["Pulled", "pull"]

log = logging.getLogger(__name__)

#: Bundles in flight at a time: enough to hide round trips, few enough to hold in memory.
BUNDLES_AT_ONCE = 4
#: Values of one key, newest first, among which the one that is here is looked for.
MAX_EARLIER = 64


@dataclasses.dataclass(frozen=True)
class Pulled:
    """What a pull did, or would do.

    Attributes:
        kernels: kernels of the workload.
        kernels_emitted: of those, written or repaired; of a dry run, those of bundles that are not here whole.
        kernels_present: of those, there before.
        conflicts: of those, left alone because another writer's build is there, or is being made.
        bundles: bundles of the workload that are here now.
        of_ranks: bundles of the workload that belong to one rank of a job each, which fetches its own when it runs.
        missing: keys of those that could not be had.
        bytes_wanted: size of the packs of bundles that were not here whole, as their manifests say.
        bytes_downloaded: from the bucket.
        requests: to the bucket.
        written_at: the writer's Inductor folder, for people.
        same_path: whether this host's has the same path.
    """

    kernels: int
    kernels_emitted: int
    kernels_present: int
    conflicts: int
    bundles: int
    of_ranks: int
    missing: tuple[str, ...]
    bytes_wanted: int
    bytes_downloaded: int
    requests: int
    written_at: str
    same_path: bool


def pull(
    store: Store,
    caches: LocalCaches,
    workload: str,
    *,
    files: Files = "all",
    dry_run: bool = False,
    timeout: float | None = None,
    progress: Progress | None = None,
    permitted: Callable[[], None] = lambda: None,
) -> Pulled:
    """Fetch everything a workload lists into the local caches; what is there already is not fetched.

    Args:
        store: where from.
        caches: where to.
        workload: its name.
        files: which files of a kernel folder to write.
        dry_run: write nothing, and find out what would be.
        timeout: seconds for each bundle.
        progress: called with (done, all) bundles.
        permitted: called beside the first request; what it raises ends the pull before anything is written.

    Raises:
        UnknownWorkloadError: there is no workload of that name.
        RemoteError: the bucket could not be asked.
        LocalCacheError: a folder cannot be written.
    """
    before = store.bucket.stats
    if not dry_run:
        start_thread(lambda: sweep(caches))
    pulling = _Pull(store, caches, files, timeout, permitted, dry_run=dry_run)
    with contextlib.ExitStack() as lock:
        lock.enter_context(pulling.host_lock("workload", workload))
        manifest, listed = pulling.workload(workload)
        if listed.refused:
            log.warning("%s", listed.refusal)
        shared = [entry for entry in listed.entries if not is_variant_of_another(entry.variant, store.rank)]
        if pulling.copies is None:
            lock.close()  # each bundle has a lock of its own; copies are for one process of this host to fetch
        parts = list(filter(is_part, shared))
        results = in_parallel(pulling.entry, parts, BUNDLES_AT_ONCE, progress if parts else None)
        # Most kernels of no graph are in the workload's own bundle or its parts as well, and here now.
        here = {kernel.hash for kernel in manifest.kernels} | pulling.kernels
        rest = [entry for entry in shared if entry.kind != "triton" or not (entry.key in here or is_part(entry))]
        results |= in_parallel(pulling.entry, rest, BUNDLES_AT_ONCE, progress)
    missing = [entry for entry in results.values() if entry is not None]
    after = store.bucket.stats
    return Pulled(
        kernels=pulling.emitted + pulling.present + pulling.conflicts,
        kernels_emitted=pulling.emitted,
        kernels_present=pulling.present,
        conflicts=pulling.conflicts,
        bundles=1 + len(shared) - len(missing),
        of_ranks=len(listed.entries) - len(shared),
        missing=tuple(sorted(f"{entry.kind}/{entry.key}" for entry in missing)),
        bytes_wanted=pulling.wanted,
        bytes_downloaded=after.bytes_down - before.bytes_down,
        requests=after.requests - before.requests,
        written_at=listed.inductor_dir,
        same_path=listed.is_made_in(str(caches.inductor)),
    )


def _list_in(manifest: Manifest) -> Workload | None:
    try:
        return workload_of_manifest(manifest)
    except FormatError as exc:
        log.warning("%s is left out: %s", manifest.place.manifest, exc)
        return None


class _Pull:
    """One pull: what its bundles share, and what is counted."""

    def __init__(
        self,
        store: Store,
        caches: LocalCaches,
        files: Files,
        timeout: float | None,
        permitted: Callable[[], None],
        *,
        dry_run: bool = False,
    ) -> None:
        self.store, self.caches, self.files, self.timeout, self.dry_run = store, caches, files, timeout, dry_run
        self._permission = start_thread(permitted)
        self.emitted = self.present = self.conflicts = self.wanted = 0
        #: Hashes of those that came, or were here.
        self.kernels: set[str] = set()
        self.is_here = functools.partial(is_here, caches=caches)
        #: Of which bundles no pack is read: those that are here, and in a dry run all.
        self.knows: Callable[[Manifest], bool] = (lambda _: True) if dry_run else self.is_here
        self.copies: Copies | None = None
        self._lock = threading.Lock()

    def workload(self, name: str) -> tuple[Manifest, Workload]:
        """Restore the kernels of a workload's own bundle and return what it lists; the newest one that loads counts."""
        is_empty = not self.dry_run and are_empty(self.caches)
        for newest in (1, 8, 64):  # newer ones may be damaged, or signed by nobody who is trusted
            found = self._load_list(name, newest, is_empty)
            self.copies = found.copies
            for loaded in found.bundles:
                listed = _list_in(loaded.manifest)
                if listed is not None and self._restore(loaded):
                    return loaded.manifest, listed
            for manifest in found.present:
                listed = _list_in(manifest)
                if listed is not None:
                    self._count_present(manifest)
                    return manifest, listed
        raise UnknownWorkloadError(
            f"{self.store.bucket.url} holds no workload named {name!r} that can be loaded",
            url=self.store.bucket.url,
            workload=name,
            hint="push it first; `tritonsync du` lists those that are there",
        )

    def entry(self, entry: WorkloadEntry) -> WorkloadEntry | None:
        """Restore one bundle; return the entry if it could not be had."""
        changing = entry.kind in CHANGING
        with self.host_lock(entry.kind, f"{entry.key}/{entry.variant}"):
            # Whoever finds something of this key here asks the manifest first: another process of this host may have
            # fetched it just now. On an empty host manifest and pack come together.
            found = self.store.load_copied(
                self.copies,
                entry.kind,
                entry.key,
                variants=None if changing else (entry.variant,),
                newest=1,
                have=self.knows if self.dry_run or self._seen(entry) else None,
                timeout=self.timeout,
            )
            for manifest in found.present:
                self._count_present(manifest)
            replace = changing and bool(found.bundles) and self._is_known(entry)
            restored = [self._restore(loaded, found.autotune, replace=replace) for loaded in found.bundles]
        return None if found.present or any(restored) else entry

    def _load_list(self, name: str, newest: int, is_empty: bool) -> Found:
        """Ask for the newest lists; return when there is the permission to go on, too."""
        try:
            # Where something is here the manifest is asked first, and copies of what is here are not fetched.
            return self.store.load(
                "workload",
                workload_key(name),
                newest=newest,
                have=None if is_empty else self.knows,
                copies=is_empty,
                timeout=self.timeout,
            )
        finally:
            self._permission.result()

    def _restore(self, loaded: Loaded, autotune: Mapping[str, bytes] | None = None, *, replace: bool = False) -> bool:
        """Restore one bundle; one that keeps the format and makes no sense is a miss."""
        try:
            restored = restore(loaded.bundle, self.caches, autotune=autotune, files=self.files, replace=replace)
        except FormatError as exc:
            log.warning("%s is left out: %s", loaded.place.prefix, exc)
            return False
        pack = loaded.manifest.pack
        with self._lock:
            self.wanted += pack.size if pack is not None else 0
            self.emitted += restored.emitted
            self.present += restored.present
            self.conflicts += len(restored.conflicts)
            self.kernels.update(kernel.hash for kernel in loaded.manifest.kernels)
        return True

    def _seen(self, entry: WorkloadEntry) -> bool:
        """Whether anything of this key is in the local caches."""
        if entry.kind == "triton":
            return is_kernel_here(self.caches.plain_kernels(None) / entry.key)
        return is_key_here(self.caches.inductor, entry.kind, entry.key)

    def _is_known(self, entry: WorkloadEntry) -> bool:
        """Whether the value here, of a kind that changes, is an earlier one of the bucket.

        Then a newer one takes its place and nothing is lost. What this host has made itself, and nobody has published,
        is of its own program and stays.
        """
        if not self._seen(entry):
            return False
        earlier = self.store.load(
            entry.kind, entry.key, newest=MAX_EARLIER, have=lambda _: True, timeout=self.timeout
        ).present
        return any(
            manifest.value is not None and is_value_here(self.caches.inductor, entry.kind, entry.key, manifest.value)
            for manifest in earlier
        )

    def host_lock(self, kind: str, key: str) -> AbstractContextManager[bool]:
        """Hold a lock among the processes of this host that pull."""
        if self.dry_run:
            return contextlib.nullcontext(True)
        return host_lock(self.caches.inductor, f"{kind}/{key}", timeout=self.timeout)

    def _count_present(self, manifest: Manifest) -> None:
        """Count a bundle that is here; in a dry run, one that was looked at."""
        lacks = self.dry_run and not self.is_here(manifest)
        with self._lock:
            self.kernels.update(kernel.hash for kernel in manifest.kernels)
            if lacks:
                self.emitted += len(manifest.kernels)
                self.wanted += manifest.pack.size if manifest.pack is not None else 0
            else:
                self.present += len(manifest.kernels)
