"""Plain kernels, while a program runs: those that Triton compiles by itself, and no value of torch holds.

Each is a bundle of its own, `triton/<kernel hash>`, that is asked for where the program needs the kernel. So that the
next run need not ask, all kernels that a run used are in the bundle of its workload too: one download, begun as soon as
Triton is in the process.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tritonsync import times
from tritonsync.errors import FormatError, TritonSyncError
from tritonsync.format.bundle import Bundle
from tritonsync.format.kernel import Kernel
from tritonsync.format.manifest import Manifest
from tritonsync.format.workload import WorkloadEntry, is_part
from tritonsync.local import triton_cache
from tritonsync.local.presence import is_variant_here
from tritonsync.remote.threads import in_parallel, start_thread
from tritonsync.remote.waiting import Deadline
from tritonsync.session.context import Context
from tritonsync.session.workload import WorkloadRecord, entries_of
from tritonsync.store.reader import Loaded
from tritonsync.sync.caches import EMITS_AT_ONCE, LocalCaches, is_entry_here, is_here

__all__ = ["KIND", "PlainKernels"]

log = logging.getLogger(__name__)

KIND = "triton"
#: Bundles fetched ahead one by one, and how many at a time.
MAX_SINGLE, SINGLE_AT_ONCE = 256, 4
#: Bundles of many kernels fetched ahead at a time; the program's memory is its own.
PARTS_AT_ONCE = 2
#: After so many misses in a row the program is new to the bucket: each further question would cost it a round trip,
#: and in the end the budget that graphs and uploads live on.
MAX_MISSES = 64
#: The same where the bucket has no record of the program, and had nothing else of what it asked for. Whoever shares an
#: image with it has published Triton's helper module, which is asked for first.
MAX_MISSES_OF_STRANGERS = 4
#: Timings of one GPU model: they belong to a variant, and are never in the bundle of a workload.
_TIMINGS = ".autotune.json"


class PlainKernels:
    """Fetches kernels of no graph, and knows which of them this run used.

    Args:
        context: of the session.
        record: of what this run used.
    """

    def __init__(self, context: Context, record: WorkloadRecord) -> None:
        self._context, self._record = context, record
        self._lock = threading.Lock()
        #: Told of each kernel that has come, and of the end of what is fetched ahead.
        self._arrived = threading.Condition(self._lock)
        self._cache_known = threading.Event()
        self._ahead_is_done = self._ahead_is_slow = False
        self._misses = 0
        self._max_misses = MAX_MISSES_OF_STRANGERS
        #: Kernel hash -> the folder it was brought to by this process, and the one in which this run used it.
        self._brought: dict[str, Path] = {}
        self._used: dict[str, Path] = {}
        #: Kernels that came ahead for hosts of one kind: nobody knows yet whether this is one.
        self._held: dict[tuple[str, str], Loaded] = {}
        self._generations: dict[tuple[str, str], int] = {}
        self._damaged: set[tuple[str, str]] = set()

    def begin(self, manifest: Manifest | None) -> None:
        """Fetch ahead, in the background, what the last run used; None: nothing is known of it."""
        if manifest is None:
            self._end_ahead()
        else:
            self._max_misses = MAX_MISSES
            start_thread(lambda: self._fetch_ahead(manifest))

    def cache_is_known(self) -> None:
        """Say that Triton is in the process, and its cache folder known."""
        self._cache_known.set()

    def fetch(self, key: str, variant: str, base: Path, timeout: float | None) -> bool:
        """Bring a kernel into `<base>/<key>`; return whether it is there now.

        There is no lock around it as there is for graphs: a kernel is some kilobytes, so two processes of a host that
        fetch it both lose less than they would by waiting for each other where the bucket lacks it.

        Raises:
            TritonSyncError, TimeoutError: the bucket could not be asked.
        """
        deadline = Deadline(timeout)
        store = self._context.reader(deadline.left)
        self.cache_is_known()
        self._wait_for_ahead(key, variant, deadline.left)
        if self._was_fetched_ahead(key, variant, base):
            return True
        if self._misses >= self._max_misses:
            return False
        found = store.load(KIND, key, variants=(variant,), timeout=deadline.left)
        with self._lock:
            self._damaged.update((key, damaged) for damaged in found.damaged)
            self._misses += 1
            if found.bundles:
                self._misses, self._max_misses = 0, MAX_MISSES
        if self._misses == self._max_misses:
            log.info("the bucket lacked the last %d kernels; it is not asked for more in this process", self._misses)
        return any(self._write(loaded, variant, base) for loaded in found.bundles)

    def note_used(self, key: str, folder: Path) -> None:
        """Note that Triton has taken a kernel from its cache, where it lies in `folder`."""
        with self._lock:
            is_new, came = key not in self._used, key in self._brought
            self._used[key] = folder
        self._record.note(KIND, key)
        if is_new:
            self._context.counters.add(**{"hits" if came else "local_hits": 1})

    def note_made(self, key: str, variant: str, folder: Path) -> tuple[int, bool]:
        """Note that Triton has made a kernel.

        Returns:
            the generation of it that proved unusable, -1 for none: one that this process had brought here, and Triton
            would not take; and whether what the bucket holds looked damaged.
        """
        with self._lock:
            self._used[key] = folder
            if key in self._brought:
                self._generations.setdefault((key, variant), 0)
                self._record.outdated()
            return self._generations.get((key, variant), -1), (key, variant) in self._damaged

    def collect(self, keys: Collection[str]) -> Iterator[Kernel]:
        """Read those of the kernels that this run used from where they lie, for the bundle of its workload."""
        torchs = self._context.host().caches().inductor / "triton"
        for key in sorted(keys & self._used.keys()):
            folder = self._used[key]
            # Inductor moves Triton's cache into a folder of its own, one a device, from the first graph on.
            device = int(folder.parent.name) if folder.parent.parent == torchs and _is_index(folder.parent) else None
            try:
                kernel = triton_cache.collect(folder, device)
            except TritonSyncError as exc:
                log.warning("kernel %s is left out: %s", key, exc)
                continue
            if kernel is not None and not any(file.name.endswith(_TIMINGS) for file in kernel.files):
                yield kernel

    def _fetch_ahead(self, manifest: Manifest) -> None:
        try:
            self._cache_known.wait()
            deadline = Deadline(times.BACKGROUND_S)
            self._fetch_all(manifest, deadline)
            held = {kernel.hash for kernel in manifest.kernels} | self._fetch_parts(manifest, deadline)
            self._fetch_singly(manifest, held, deadline)
        except Exception as exc:  # noqa: BLE001 - nobody waits for this thread
            self._context.waits.failed(exc)
        finally:
            self._end_ahead()

    def _end_ahead(self) -> None:
        with self._arrived:
            self._ahead_is_done = True
            self._arrived.notify_all()

    def _wait_for_ahead(self, key: str, variant: str, left: float | None) -> None:
        """Wait until a kernel has come ahead, or nothing more comes; in vain only once, and for half of what is left.

        In the other half the bucket can be asked for this kernel: a fetch of many that takes long is no trouble of it.
        """
        with self._arrived:
            if not self._ahead_is_slow:
                self._ahead_is_slow = not self._arrived.wait_for(
                    lambda: self._ahead_is_done or key in self._brought or (key, variant) in self._held,
                    times.AHEAD_S if left is None else min(times.AHEAD_S, left / 2),
                )

    def _fetch_all(self, manifest: Manifest, deadline: Deadline) -> None:
        """Bring the kernels of a workload's bundle here, those that are missing."""
        caches = self._context.host().caches()
        if is_here(manifest, caches):
            return
        store = self._context.reader(deadline.left)
        with self._context.host_lock(caches.plain_kernels(None), f"workload/{manifest.key}", deadline):
            # Another process of this host may have had the lock until now.
            wanted = {
                (kernel.hash, kernel.content_id)
                for kernel in manifest.kernels
                if not is_entry_here(kernel, caches.folder_of(kernel, manifest.kind))
            }
            bundle = store.load_content(manifest, timeout=deadline.left) if wanted else None
            kernels = () if bundle is None else bundle.kernels
            self._emit_all([k for k in kernels if (k.hash, k.content_id) in wanted], caches, manifest.kind)

    def _fetch_parts(self, manifest: Manifest, deadline: Deadline) -> set[str]:
        """Bring the kernels here that were too many for the workload's bundle; return their hashes."""
        caches = self._context.host().caches()
        store = self._context.reader(deadline.left)

        def fetch(entry: WorkloadEntry) -> frozenset[str]:
            have = functools.partial(is_here, caches=caches)
            found = store.load(KIND, entry.key, variants=(entry.variant,), have=have, timeout=deadline.left)
            for loaded in found.bundles:
                self._emit_all(loaded.bundle.kernels, caches, KIND)
            manifests = (*found.present, *(loaded.manifest for loaded in found.bundles))
            hashes = frozenset(kernel.hash for manifest in manifests for kernel in manifest.kernels)
            if hashes:
                self._record.note_part(entry, hashes)
            return hashes

        parts = in_parallel(fetch, filter(is_part, entries_of(manifest)), PARTS_AT_ONCE)
        return {kernel for kernels in parts.values() for kernel in kernels}

    def _fetch_singly(self, manifest: Manifest, held: Collection[str], deadline: Deadline) -> None:
        """Fetch the listed bundles whose kernels were in none of many, and hold them until they are wanted."""
        base = self._context.host().caches().plain_kernels(None)
        wanted = [
            entry
            for entry in entries_of(manifest)
            if entry.kind == KIND
            and entry.key not in held
            and not is_variant_here(base / entry.key, entry.variant)
            and not is_part(entry)
        ]
        store = self._context.reader(deadline.left)

        def fetch(entry: WorkloadEntry) -> None:
            for loaded in store.load(KIND, entry.key, variants=(entry.variant,), timeout=deadline.left).bundles:
                with self._arrived:
                    self._held[entry.key, entry.variant] = loaded
                    self._arrived.notify_all()

        in_parallel(fetch, wanted[:MAX_SINGLE], SINGLE_AT_ONCE)

    def _was_fetched_ahead(self, key: str, variant: str, base: Path) -> bool:
        """Whether what was fetched ahead has the kernel; it is put where it is wanted."""
        with self._lock:
            loaded = self._held.pop((key, variant), None)
            folder = self._brought.get(key)
        if loaded is not None:
            return self._write(loaded, variant, base)
        if folder is None:
            return False
        if folder == base / key:
            return True
        # Inductor has moved Triton's cache since.
        kernel = triton_cache.collect(folder, None)
        return kernel is not None and self._emit(kernel, base)

    def _write(self, loaded: Loaded, variant: str, base: Path) -> bool:
        key, is_here, is_usable = loaded.bundle.key, False, _is_one_kernel(loaded.bundle)
        try:
            is_here = is_usable and self._emit(loaded.bundle.kernels[0], base)
        except FormatError as exc:
            is_usable = False
            log.warning("%s cannot be used: %s", loaded.place.prefix, exc)
        if is_here or not is_usable:
            with self._lock:
                self._generations[key, variant] = loaded.manifest.generation
        if is_here:
            self._record.note(KIND, key, variant)
            self._context.counters.add(saved_s=loaded.manifest.compile_seconds)
        return is_here

    def _emit_all(self, kernels: Sequence[Kernel], caches: LocalCaches, kind: str) -> None:
        def emit(number: int) -> bool:
            return self._emit(kernels[number], caches.folder_of(kernels[number], kind))

        in_parallel(emit, range(len(kernels)), EMITS_AT_ONCE)

    def _emit(self, kernel: Kernel, base: Path) -> bool:
        emitted = triton_cache.emit(kernel, base, files=self._context.settings.files)
        if emitted.outcome in ("busy", "conflict"):
            self._context.counters.add(conflicts=int(emitted.outcome == "conflict"))
            return False
        if emitted.outcome in ("emitted", "repaired"):
            self._context.counters.add(kernels_fetched=1)
        with self._arrived:
            self._brought[kernel.hash] = emitted.path
            self._arrived.notify_all()
        return True


def _is_one_kernel(bundle: Bundle) -> bool:
    if [kernel.hash for kernel in bundle.kernels] == [bundle.key]:
        return True
    log.warning("%s/%s does not hold one kernel of that hash; left out", bundle.kind, bundle.key)
    return False


def _is_index(folder: Path) -> bool:
    return folder.name.isdecimal()
