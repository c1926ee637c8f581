"""TritonBundler: notes which kernels a compile makes, bundles them, and writes them back; without torch.

Life cycle, as in PyTorch's class of that name (torch/_inductor/triton_bundler.py, 2.13): `begin_compile` when a compile
starts, `put` for each kernel, then `collect` to get the bundle or `end_compile` to drop it; `read_and_emit` when a
bundle came from a cache.

Imports: errors, settings, format, local.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePath

from tritonsync.errors import BundlerStateError, FormatError, LocalCacheError
from tritonsync.format.kernel import BINARY_SUFFIXES, Kernel
from tritonsync.local import triton_cache
from tritonsync.local.triton_cache import Outcome
from tritonsync.settings import Settings

__all__ = [
    "AutotunerLoader",
    "BundleEntry",
    "BundleMetadata",
    "Collected",
    "Emission",
    "LoadedAutotuners",
    "StaticAutotuner",
    "TritonBundle",
    "TritonBundler",
]


@dataclasses.dataclass(frozen=True)
class BundleEntry:
    """A note that a kernel was compiled: enough to find it on disk later.

    Attributes:
        kernel_hash: Triton's name of the kernel's folder.
        device: index of the device it was compiled for, or None for any.
        directory: the folder that holds the kernel's folder.
    """

    kernel_hash: str
    device: int | None
    directory: str


@dataclasses.dataclass(frozen=True)
class StaticAutotuner:
    """An autotuner whose kernels are launched without Triton; its binaries are kernels of the same bundle.

    Attributes:
        cache_key: what Inductor looks it up by.
        kernel_name: the generated kernel function.
        kernel: the pickled autotuner, opaque here; not shown in the repr.
    """

    cache_key: str
    kernel_name: str
    kernel: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class TritonBundle:
    """All kernels and static autotuners of one compile."""

    kernels: tuple[Kernel, ...] = ()
    static_autotuners: tuple[StaticAutotuner, ...] = ()


@dataclasses.dataclass(frozen=True)
class BundleMetadata:
    """Names for people: of the kernels that were collected or written, and of the static autotuners."""

    cached_kernel_names: tuple[str, ...] = ()
    statically_launched_kernel_names: tuple[str, ...] = ()


log = logging.getLogger(__name__)

#: Puts one static autotuner where the host program will look for it; raises if that is not possible.
AutotunerLoader = Callable[[StaticAutotuner], None]


@dataclasses.dataclass(frozen=True)
class Collected:
    """What `collect` made.

    Attributes:
        bundle: the kernels and static autotuners.
        metadata: their names; None when disabled, or when no compile was being noted.
        kernels_saved: how many kernels are in the bundle.
        autotuners_saved: how many static autotuners.
        kernels_skipped: kernel hash -> why it was left out.
        seconds: how long it took.
    """

    bundle: TritonBundle = dataclasses.field(default_factory=TritonBundle)
    metadata: BundleMetadata | None = None
    kernels_saved: int = 0
    autotuners_saved: int = 0
    kernels_skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class LoadedAutotuners:
    """Names of the static autotuners that were loaded, and of those that were not."""

    loaded: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Emission:
    """What `read_and_emit` did.

    Attributes:
        metadata: names of the kernels written and the autotuners loaded; None when disabled.
        outcomes: how many kernels ended how (`triton_cache.Emitted.outcome`).
        conflicts: hashes of kernels that are here with another binary; a graph that needs them must not be used.
        refused: kernel hash -> why it was not written.
        autotuners: what became of the static autotuners.
        seconds: how long it took.
    """

    metadata: BundleMetadata | None = None
    outcomes: Mapping[Outcome, int] = dataclasses.field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    autotuners: LoadedAutotuners = dataclasses.field(default_factory=LoadedAutotuners)
    seconds: float = 0.0

    @property
    def kernels_emitted(self) -> int:
        """How many kernel folders were written or repaired."""
        return self.outcomes.get("emitted", 0) + self.outcomes.get("repaired", 0)


#: Outcomes after which a kernel's folder holds that very kernel.
_IS_THE_SAME: tuple[Outcome, ...] = ("emitted", "repaired", "present")


@dataclasses.dataclass
class _Notes:
    """What was put since `begin_compile`."""

    entries: dict[BundleEntry, None] = dataclasses.field(default_factory=dict)
    winners: set[str] = dataclasses.field(default_factory=set)
    autotuners: list[StaticAutotuner] = dataclasses.field(default_factory=list)
    autotuner_kernels: set[str] = dataclasses.field(default_factory=set)


class TritonBundler:
    """Bundle the kernels of one compile at a time; every method may be called from any thread.

    Args:
        settings: decides whether anything is done, and which files are emitted.
        triton_cache_dir: gives the folder that holds the kernel folders of a device.
        load_autotuner: puts a static autotuner into the host program; None: they are skipped and counted.
    """

    def __init__(
        self,
        settings: Settings,
        triton_cache_dir: Callable[[int | None], str | os.PathLike[str]],
        *,
        load_autotuner: AutotunerLoader | None = None,
    ) -> None:
        self._settings = settings
        self._triton_cache_dir = triton_cache_dir
        self._load_autotuner = load_autotuner
        self._lock = threading.Lock()
        self._notes: _Notes | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether the settings let it do anything."""
        return self._settings.is_active

    def begin_compile(self) -> None:
        """Start an empty bundle. Does nothing when disabled.

        Raises:
            BundlerStateError: the last compile has been neither collected nor ended.
        """
        if not self.is_enabled:
            return
        with self._lock:
            if self._notes is not None:
                raise BundlerStateError("begin_compile was called inside a compile; call collect or end_compile first")
            self._notes = _Notes()
        log.debug("Noting the kernels of a compile")

    def end_compile(self) -> None:
        """Drop what was noted."""
        self._take()
        log.debug("Stopped noting kernels")

    def put(self, kernel_hash: str, device: int | None) -> None:
        """Note a kernel; nothing is read yet. Does nothing outside of a compile."""
        if self._notes is None:
            return
        entry = BundleEntry(kernel_hash, device, os.fspath(self._triton_cache_dir(device)))
        with self._lock:
            if self._notes is not None:
                self._notes.entries[entry] = None

    def put_winner(self, kernel_hash: str) -> None:
        """Note that a kernel won its autotuning.

        `collect` keeps winners only, and all kernels if there is none. Kernels that a static autotuner names are kept
        in any case: without one of its binaries, the whole autotuner is lost to the reader (pytorch/pytorch#194918).
        """
        with self._lock:
            if self._notes is not None:
                self._notes.winners.add(kernel_hash)

    def put_static_autotuner(
        self, cache_key: str, kernel_name: str, kernel: bytes, kernel_hashes: Iterable[str] = ()
    ) -> None:
        """Note a static autotuner. Does nothing outside of a compile.

        Args:
            cache_key: what Inductor looks it up by.
            kernel_name: for people.
            kernel: the pickled autotuner; the caller has prepared it for pickling.
            kernel_hashes: the kernels that it launches.
        """
        with self._lock:
            if self._notes is not None:
                self._notes.autotuners.append(StaticAutotuner(cache_key, kernel_name, kernel))
                self._notes.autotuner_kernels.update(kernel_hashes)

    def collect_static_autotuners(self) -> tuple[tuple[StaticAutotuner, ...], tuple[str, ...]]:
        """Return the static autotuners noted so far, and their names."""
        with self._lock:
            autotuners = tuple(self._notes.autotuners) if self._notes is not None else ()
        return autotuners, tuple(autotuner.kernel_name for autotuner in autotuners)

    def collect(self) -> Collected:
        """Read every noted kernel into a bundle, and end the compile.

        A kernel that is gone, not finished, not readable, or that holds the sentinel is left out whole.
        """
        started = time.perf_counter()
        notes = self._take()
        if notes is None:
            return Collected()
        kernels, skipped = [], {}
        for entry in notes.entries:
            if notes.winners and entry.kernel_hash not in notes.winners | notes.autotuner_kernels:
                log.debug("Leaving out kernel %s: it lost its autotuning", entry.kernel_hash)
                continue
            try:
                kernel = triton_cache.collect(Path(entry.directory, entry.kernel_hash), entry.device)
            except (LocalCacheError, FormatError) as exc:
                log.warning("Leaving out kernel %s: %s", entry.kernel_hash, exc)
                skipped[entry.kernel_hash] = str(exc)
                continue
            if kernel is None:
                log.debug("Leaving out kernel %s: %s holds no finished one", entry.kernel_hash, entry.directory)
                skipped[entry.kernel_hash] = f"{entry.directory} holds no finished kernel of that hash"
                continue
            kernels.append(kernel)
        names = tuple(autotuner.kernel_name for autotuner in notes.autotuners)
        return Collected(
            bundle=TritonBundle(tuple(kernels), tuple(notes.autotuners)),
            metadata=BundleMetadata(_binary_names(kernels), names),
            kernels_saved=len(kernels),
            autotuners_saved=len(names),
            kernels_skipped=skipped,
            seconds=time.perf_counter() - started,
        )

    def read_and_emit(self, bundle: TritonBundle) -> Emission:
        """Write the kernels of a bundle into Triton's cache, then load its static autotuners.

        A kernel that is only half a kernel is refused, the rest is written. Static autotuners carry the launch facts of
        their own binaries, so they are loaded only where every kernel of the bundle is the one that is here now.

        Raises:
            LocalCacheError: the cache folder cannot be written.
        """
        if not self.is_enabled:
            return Emission()
        started = time.perf_counter()
        outcomes: collections.Counter[Outcome] = collections.Counter()
        written, conflicts, refused = [], [], {}
        for kernel in bundle.kernels:
            try:
                outcome = self._emit(kernel)
            except FormatError as exc:
                log.warning("Not writing kernel %s: %s", kernel.hash, exc)
                refused[kernel.hash] = str(exc)
                continue
            log.debug("Kernel %s: %s", kernel.hash, outcome)
            outcomes[outcome] += 1
            if outcome in ("emitted", "repaired"):
                written.append(kernel)
            elif outcome == "conflict":
                conflicts.append(kernel.hash)
        is_whole = not refused and outcomes.keys() <= set(_IS_THE_SAME)
        autotuners = self.load_autotuners(bundle.static_autotuners, self._load_autotuner if is_whole else None)
        return Emission(
            metadata=BundleMetadata(_binary_names(written), autotuners.loaded),
            outcomes=dict(outcomes),
            conflicts=tuple(conflicts),
            refused=refused,
            autotuners=autotuners,
            seconds=time.perf_counter() - started,
        )

    def _emit(self, kernel: Kernel) -> Outcome:
        base = Path(self._triton_cache_dir(kernel.device))
        outcome = triton_cache.emit(kernel, base, files=self._settings.files).outcome
        if outcome == "lost_race":
            # What the winner wrote may be another build; the second look tells.
            outcome = triton_cache.emit(kernel, base, files=self._settings.files).outcome
        return outcome

    def load_autotuners(
        self, static_autotuners: Collection[StaticAutotuner], load: AutotunerLoader | None
    ) -> LoadedAutotuners:
        """Hand each static autotuner to `load`; one that fails is skipped with a warning, the others are loaded."""
        loaded, skipped = [], []
        for autotuner in static_autotuners:
            if load is not None:
                try:
                    load(autotuner)
                except Exception:  # it unpickles and runs code of the host program: anything can come
                    log.warning("Skipping the static autotuner %s", autotuner.kernel_name, exc_info=True)
                else:
                    loaded.append(autotuner.kernel_name)
                    continue
            skipped.append(autotuner.kernel_name)
        return LoadedAutotuners(tuple(loaded), tuple(skipped))

    def _take(self) -> _Notes | None:
        with self._lock:
            notes, self._notes = self._notes, None
            return notes


def _binary_names(kernels: Iterable[Kernel]) -> tuple[str, ...]:
    """Return the name of each binary without its suffix."""
    files = (file for kernel in kernels for file in kernel.files)
    return tuple(PurePath(file.name).stem for file in files if file.name.endswith(BINARY_SUFFIXES))
