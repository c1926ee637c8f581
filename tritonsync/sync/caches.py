"""The caches of this host: where they are, and how bundles are gathered from and restored into them.

A restore writes kernels first, then autotune results, then the value that asks for both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from tritonsync.errors import FormatError, LocalCacheError
from tritonsync.format.bundle import GRAPHS, Bundle
from tritonsync.format.facts import ValueFacts, why_unfit
from tritonsync.format.kernel import Kernel
from tritonsync.format.manifest import KernelEntry, Manifest
from tritonsync.format.ranks import Rank, depends_on_rank, required_rank
from tritonsync.format.value import bundle_of_value, has_value, value_of_bundle
from tritonsync.local import inductor_cache, triton_cache
from tritonsync.local.autotune import results_of_payloads, write_autotune
from tritonsync.local.files import TEMPORARY_PREFIX, check_owner, is_link
from tritonsync.local.group import is_group
from tritonsync.local.owners import note_owner
from tritonsync.local.presence import is_kernel_here, is_value_here
from tritonsync.remote.threads import in_parallel
from tritonsync.settings import Files

__all__ = [
    "EMITS_AT_ONCE",
    "LocalCaches",
    "Restored",
    "are_empty",
    "check_caches",
    "gather",
    "is_entry_here",
    "is_here",
    "restore",
    "sweep",
]

log = logging.getLogger(__name__)

#: Kernels written at a time: most of that is hashing and waiting for the disk, without Python's lock.
EMITS_AT_ONCE = 4
#: Device folders looked into where nobody says which there are.
_ANY_DEVICE = (None, *range(16))


@dataclasses.dataclass(frozen=True)
class LocalCaches:
    """Where the caches of this host are.

    Attributes:
        inductor: Inductor's cache folder.
        graph_kernels: the folder that torch keeps the kernels of graphs in, for a device index.
        plain_kernels: the same for kernels of no graph; None: kernels that are not kept by device.
    """

    inductor: Path
    graph_kernels: Callable[[int | None], Path]
    plain_kernels: Callable[[int | None], Path]

    @classmethod
    def at(cls, inductor: Path, triton: Path | None = None, *, by_device: bool = True) -> LocalCaches:
        """Take folders as they lie.

        Args:
            inductor: Inductor's cache folder.
            triton: the folder of kernels; None: `triton` inside Inductor's folder, as torch has it.
            by_device: whether torch keeps the kernels of each device in a folder of its own there; it does not where
                TRITON_CACHE_DIR names the folder.
        """
        root = inductor / "triton" if triton is None else triton
        if not by_device:
            return cls(inductor, lambda _: root, lambda _: root)
        return cls(
            inductor,
            # torch 2.15 keeps kernels for any device under `None`.
            lambda device: root / str(device),
            lambda device: root if device is None else root / str(device),
        )

    def folder_of(self, kernel: Kernel | KernelEntry, kind: str) -> Path:
        """Return the folder that the folder of this kernel belongs into, if it came in a bundle of that kind."""
        if kind in GRAPHS:
            return self.graph_kernels(kernel.device)
        return self.plain_kernels(kernel.device)


def check_caches(caches: LocalCaches) -> None:
    """Check that nobody else can write into the caches of this host.

    Raises:
        UnsafeFolderError: somebody can; it names the folder.
    """
    for folder in dict.fromkeys((caches.inductor, caches.graph_kernels(0), caches.plain_kernels(None))):
        check_owner(folder)


def gather(
    kind: str,
    key: str,
    value: bytes,
    facts: ValueFacts,
    caches: LocalCaches,
    *,
    cpu: str | None,
    rank: Rank | None = None,
    sources: Mapping[str, str] | None = None,
) -> Bundle:
    """Make the bundle of a value of `FxGraphCache` or `AOTAutogradCache`, with the kernels it names and does not hold.

    torch 2.13 and 2.15 leave the losers of autotuning out of the value while its static autotuners still name them,
    and drop the whole autotuner when one is missing (pytorch 194918); so every kernel that they name is added from the
    local folder.
    """
    held = bundle_of_value(kind, key, value, cpu=cpu, rank=rank, facts=facts, sources=sources)
    missing = set(facts.static_kernels) - {kernel.hash for kernel in held.kernels}
    if not missing:
        return held
    devices = {kernel.device for kernel in held.kernels} or _ANY_DEVICE
    return dataclasses.replace(held, kernels=(*held.kernels, *_collect(sorted(missing), devices, caches)))


def _collect(names: Iterable[str], devices: Iterable[int | None], caches: LocalCaches) -> Iterator[Kernel]:
    for device in devices:
        for name in names:
            try:
                kernel = triton_cache.collect(caches.graph_kernels(device) / name, device)
            except (LocalCacheError, FormatError) as exc:
                log.warning("kernel %s is left out: %s", name, exc)
                continue
            if kernel is not None:
                yield kernel


def are_empty(caches: LocalCaches) -> bool:
    """Whether there is nothing in the caches of this host, but for what is hidden or temporary."""
    for folder in (caches.inductor, caches.plain_kernels(None)):
        with contextlib.suppress(OSError), os.scandir(folder) as found:  # whoever writes there says what is wrong
            if not all(entry.name.startswith((".", TEMPORARY_PREFIX)) for entry in found):
                return False
    return True


def is_here(manifest: Manifest, caches: LocalCaches) -> bool:
    """Return whether all that a bundle holds is in the caches of this host: its value, and every kernel.

    A folder of helper modules is shared by processes of several kinds, so there only the bundle's own files count.

    Raises:
        LocalCacheError: something there cannot be read.
    """
    value = manifest.value
    if value is not None and not is_value_here(caches.inductor, manifest.kind, manifest.key, value):
        return False
    return all(is_entry_here(kernel, caches.folder_of(kernel, manifest.kind)) for kernel in manifest.kernels)


def is_entry_here(kernel: KernelEntry, folder: Path) -> bool:
    """Return whether a kernel that a manifest promises is in a folder of kernel folders, finished."""
    files = {file.name for file in kernel.files}
    if any(map(is_group, files)):
        return is_kernel_here(folder / kernel.hash)
    place = folder / kernel.hash
    return not is_link(place) and all((place / name).is_file() and not is_link(place / name) for name in files)


@dataclasses.dataclass(frozen=True)
class Restored:
    """What came of one bundle.

    Attributes:
        value: the value, byte for byte as torch made it; None where the bundle has none, or it may not be used here.
        emitted: kernels written or repaired.
        present: kernels that were there already.
        conflicts: hashes of kernels whose folder holds another writer's build, or one that is being made right now.
    """

    value: bytes | None
    emitted: int
    present: int
    conflicts: tuple[str, ...]


def restore(
    bundle: Bundle,
    caches: LocalCaches,
    *,
    autotune: Mapping[str, bytes] | None = None,
    files: Files = "all",
    replace: bool = False,
) -> Restored:
    """Write a bundle into the caches of this host.

    A value with a kernel in conflict is not written: its static autotuners carry the launch facts of their own binary
    (shared memory, warps), which must not meet another one.

    Args:
        bundle: checked against its manifest.
        caches: where to.
        autotune: the results that lie under the value's key: payload name to content.
        files: which files of a kernel folder to write.
        replace: whether another value of a kind that changes, if one is here, gives way to this one.

    Raises:
        LocalCacheError: a folder cannot be written.
        FormatError: the bundle does not make up its value, holds half a kernel, or a value that is not fit to be used.
    """
    owner = _owner(bundle)
    emitted, present, conflicts = 0, 0, []

    def emit(number: int) -> triton_cache.Outcome:
        kernel = bundle.kernels[number]
        folder = caches.folder_of(kernel, bundle.kind)
        outcome = _emit(kernel, folder, files)
        # What the winner of a race wrote may be another build; the second look tells.
        return _emit(kernel, folder, files) if outcome == "lost_race" else outcome

    for number, outcome in in_parallel(emit, range(len(bundle.kernels)), EMITS_AT_ONCE).items():
        kernel = bundle.kernels[number]
        if outcome in ("emitted", "repaired"):
            emitted += 1
        elif outcome in ("conflict", "busy", "lost_race"):
            conflicts.append(kernel.hash)
            log.info("kernel %s of %s/%s: %s on this host", kernel.hash, bundle.kind, bundle.key, outcome)
        else:
            present += 1
    value = None
    if has_value(bundle) and not conflicts:
        value = value_of_bundle(bundle)
        for result in results_of_payloads(autotune or {}):
            write_autotune(caches.inductor, result)
        if owner is not None:
            # First the note: whoever finds the value must find whose it is.
            note_owner(caches.inductor, inductor_cache.value_name(value), owner)
        inductor_cache.write_value(caches.inductor, bundle.kind, bundle.key, value, replace=replace)
    return Restored(value, emitted, present, tuple(conflicts))


def sweep(caches: LocalCaches) -> int:
    """Remove what killed processes left in these caches more than an hour ago; return how much that was.

    Ours, torch's and Triton's. What cannot be removed stays, and so do our lock files, which are empty and used again.
    """
    folders = {of(device) for of in (caches.graph_kernels, caches.plain_kernels) for device in _ANY_DEVICE}
    return inductor_cache.sweep(caches.inductor) + sum(map(triton_cache.sweep, folders))


def _emit(kernel: Kernel, folder: Path, files: Files) -> triton_cache.Outcome:
    """Write a kernel; where something else stands in its place that cannot be used, it stays, as a conflict."""
    try:
        outcome = triton_cache.emit(kernel, folder, files=files).outcome
    except LocalCacheError as exc:
        # Where nothing stands, it is the disk or the whole folder, and no kernel will fare better.
        if not os.path.lexists(folder / kernel.hash):
            raise
        log.warning("kernel %s is left out: %s", kernel.hash, exc)
        return "conflict"
    if outcome == "conflict" and is_link(folder / kernel.hash):
        log.warning("kernel %s is left out: %s is a link", kernel.hash, folder / kernel.hash)
    return outcome


def _owner(bundle: Bundle) -> Rank | None:
    """Return the rank that the value of a bundle belongs to; None for all.

    Raises:
        FormatError: the value is of no use to anybody, or may belong to a rank and does not say to which.
    """
    owner = required_rank(bundle.requires)
    if bundle.kind not in GRAPHS:
        return owner
    for payload in bundle.payloads:
        why = why_unfit(payload.data)
        if why is None and owner is None and depends_on_rank(payload.data):
            why = "it may hold code for one rank of a job, and does not say for which"
        if why is not None:
            raise FormatError(f"bundle {bundle.kind}/{bundle.key} is of no use: {why}")
    return owner
