"""The check of one bundle after the other: manifest, pack, single objects, kernel folders.

Bundles share kernel folders, so what was found out about a folder is kept. Several threads may use one checker.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Literal

from tritonsync.errors import FormatError, NewerFormatError, PackError, RemoteError, TrustError, UnfitObjectError
from tritonsync.format import pack as packs
from tritonsync.format import start
from tritonsync.format.bundle import CHANGING, FOLDER
from tritonsync.format.folder import list_of_manifest
from tritonsync.format.kernel import content_id
from tritonsync.format.layout import BundlePlace, kernel_prefix, key_prefix, parse_manifest_name
from tritonsync.format.manifest import MAX_MANIFEST_BYTES, FileEntry, Manifest
from tritonsync.format.signing import TrustPolicy
from tritonsync.format.workload import Workload, workload_of_manifest
from tritonsync.remote.bucket import ObjectInfo
from tritonsync.remote.threads import in_parallel
from tritonsync.store.catalog import Catalog, Objects, batches

__all__ = ["Checker", "Problem"]

#: A kernel folder of no bundle that is larger is not read: nothing says how large its files may be.
MAX_UNUSED_BYTES = 256 * 1024 * 1024
LISTINGS_AT_ONCE = 16

State = Literal["good", "missing", "bad"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with one object or, where `name` ends with a slash, with all below it."""

    name: str
    what: str


class Checker:
    """Collects what is wrong.

    Args:
        catalog: of the bucket.
        kernels: a listing of all kernel folders; None: each is listed when a bundle uses it.
    """

    def __init__(self, catalog: Catalog, kernels: Objects | None) -> None:
        self.bad: list[Problem] = []
        self.incomplete: list[Problem] = []
        self.newer: list[Problem] = []
        self.untrusted: list[Problem] = []
        self.objects = 0
        self._bucket, self._catalog, self._kernels = catalog.bucket, catalog, kernels
        self._under_bundles = _by_folder(catalog.objects, 5)
        self._under_kernels = None if kernels is None else _by_folder(kernels, 3)
        names = [name.split("/") for name in self._under_bundles]
        self._there = {"/".join(parts[:depth]) + "/" for parts in names for depth in (3, 4)}
        self._workloads: dict[str, tuple[BundlePlace, list[Problem]]] = {}
        self._hopeless: list[BundlePlace] = []
        self._of_strangers: set[str] = set()
        self._folders: dict[str, Future[tuple[State, ...]]] = {}
        self._lock = threading.Lock()

    def bundle(self, place: BundlePlace) -> None:
        """Check one bundle.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        listing = self._under_bundles[place.prefix]
        manifest = self._manifest(place, listing)
        if manifest is None:
            return
        pack = self._pack(manifest, place, listing)
        wanted = {f"{place.prefix}{path}": entry for path, entry in manifest.members() if not _is_kernel(path)}
        if place.kind == FOLDER and pack == "good":
            wanted = {}  # all of it is in its pack alone: the next one holds nearly the same
        states = [*self._check(wanted, listing).values(), *self._kernel_states(manifest)]
        broken = [state for state in states if state != "good"]
        if pack != "good" and broken:
            what = f"its pack is {pack}, and {len(broken)} of its {len(states)} single objects are missing or bad"
            self.bad.append(Problem(place.prefix, f"cannot be loaded: {what}"))
            self._hopeless.append(place)
        elif pack == "missing":
            self.incomplete.append(Problem(place.pack, "is missing; its single objects are all there"))
        elif "missing" in broken:
            what = f"{broken.count('missing')} of its {len(states)} single objects are missing; its pack holds them"
            self.incomplete.append(Problem(place.prefix, what))
        if place.kind == "workload":
            self._workload(manifest, place)
            if place.start in listing:
                self._start(place, listing)
        elif place.kind == FOLDER:
            self._folder(manifest, place)

    def unused_folders(self) -> list[str]:
        """Return the kernel folders that no bundle uses."""
        return sorted((self._under_kernels or {}).keys() - self._folders.keys() - self._of_strangers)

    def unlisted(self) -> list[Problem]:
        """Return what the newest list of each workload names that is not there."""
        return [problem for _, problems in self._workloads.values() for problem in problems]

    def unused(self, folder: str) -> None:
        """Check a kernel folder that no bundle uses: its name tells what all of its files together have to be.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        listing = (self._under_kernels or {})[folder]
        if sum(info.size for info in listing.values()) > MAX_UNUSED_BYTES:
            self.incomplete.append(Problem(folder, "belongs to no bundle, and is too large to be a kernel"))
            return
        files = []
        for batch in batches({name: info.size for name, info in listing.items()}):
            for name, data in self._bucket.get_many(batch).items():
                if isinstance(data, RemoteError):
                    raise data
                if isinstance(data, bytes):
                    files.append((name.rpartition("/")[2], len(data), hashlib.sha256(data).hexdigest()))
        self._count(len(files))
        if content_id(files) != folder.split("/")[2]:
            self.incomplete.append(Problem(folder, "belongs to no bundle, and is unfinished or damaged"))

    def unfinished_bundles(self) -> list[str]:
        """Return the prefixes of bundles that have no manifest."""
        return sorted(self._under_bundles.keys() - {place.prefix for place in self._catalog.places})

    def remove_bad(self) -> Iterator[str]:
        """Remove bad objects, and whole bundles that cannot be loaded; yield the names of what was removed.

        Raises:
            RemoteError: the bucket does not allow it.
        """
        done: set[str] = set()
        names = [[place.manifest, *sorted(self._under_bundles[place.prefix])] for place in self._hopeless]
        names.append([problem.name for problem in self.bad if not problem.name.endswith("/")])
        for name in (name for group in names for name in group):
            if name not in done:
                done.add(name)
                self._bucket.delete(name)
                yield name

    def _manifest(self, place: BundlePlace, listing: Objects) -> Manifest | None:
        size = listing[place.manifest].size
        if size > MAX_MANIFEST_BYTES:
            self.bad.append(Problem(place.manifest, f"has {size} bytes; a manifest has {MAX_MANIFEST_BYTES} at most"))
            self._hopeless.append(place)
            return None
        try:
            data = self._bucket.get(place.manifest, limit=size)
            if data is None:
                return None  # removed since the listing
            self._count(1)
            try:
                return self._catalog.trust.accept(data, place)
            except TrustError as exc:
                # Not trusted here is not damaged: who reads it may trust other keys. What is damaged raises here.
                manifest = TrustPolicy().accept(data, place)
                self.untrusted.append(Problem(place.manifest, _said(exc, place.manifest)))
                self._of_strangers.update(kernel_prefix(each.hash, each.content_id) for each in manifest.kernels)
        except NewerFormatError as exc:
            self.newer.append(Problem(place.manifest, _said(exc, place.manifest)))
        except FormatError as exc:
            self.bad.append(Problem(place.manifest, _said(exc, place.manifest)))
            self._hopeless.append(place)
        return None

    def _pack(self, manifest: Manifest, place: BundlePlace, listing: Objects) -> State:
        if manifest.pack is None:
            return "good"
        if place.pack not in listing:
            return "missing"
        found = listing[place.pack].size
        if found != manifest.pack.size:
            self.bad.append(Problem(place.pack, f"has {found} bytes, not the {manifest.pack.size} of its manifest"))
            return "bad"
        try:
            data = self._bucket.get(place.pack, limit=found)
            if data is None:
                return "missing"
            self._count(1)
            packs.decode(data, manifest)
        except (PackError, UnfitObjectError) as exc:
            self.bad.append(Problem(place.pack, str(exc)))
            return "bad"
        return "good"

    def _start(self, place: BundlePlace, listing: Objects) -> None:
        """Check the copies beside a list: manifests, whoever signed them, and their packs."""
        try:
            data = self._bucket.get(place.start, limit=min(listing[place.start].size, start.MAX_START_BYTES))
            if data is None:
                return
            self._count(1)
            objects = start.decode(data)
            for name, content in objects.items():
                copied = parse_manifest_name(name)
                if copied is not None:
                    described = TrustPolicy().accept(bytes(content), copied)
                    if copied.pack in objects:
                        packs.decode(bytes(objects[copied.pack]), described)
        except NewerFormatError as exc:
            self.newer.append(Problem(place.start, _said(exc, place.start)))
        except FormatError as exc:
            self.bad.append(Problem(place.start, str(exc)))

    def _workload(self, manifest: Manifest, place: BundlePlace) -> None:
        try:
            workload = workload_of_manifest(manifest)
        except FormatError as exc:
            self.bad.append(Problem(place.manifest, str(exc)))
            return
        if workload.refused:
            self.incomplete.append(Problem(place.manifest, workload.refusal))
        problems = [
            Problem(prefix, f"is not there, and workload {manifest.key} lists it")
            for prefix in sorted(_prefixes(workload) - self._there)
        ]
        with self._lock:
            newest, _ = self._workloads.get(place.key, (place, []))
            if _oldest_first(newest) <= _oldest_first(place):
                self._workloads[place.key] = place, problems

    def _folder(self, manifest: Manifest, place: BundlePlace) -> None:
        try:
            list_of_manifest(manifest)
        except FormatError as exc:
            self.bad.append(Problem(place.manifest, str(exc)))

    def _kernel_states(self, manifest: Manifest) -> list[State]:
        """Check the kernel folders that no other bundle has had checked; return the state of each file of all."""
        wanted: dict[str, dict[str, FileEntry]] = {}
        for kernel in manifest.kernels:
            folder = kernel_prefix(kernel.hash, kernel.content_id)
            wanted[folder] = {folder + file.name: file for file in kernel.files}
        mine = {}
        with self._lock:
            for folder in wanted:
                if folder not in self._folders:
                    mine[folder] = self._folders[folder] = Future[tuple[State, ...]]()
        try:
            entries = {name: entry for folder in mine for name, entry in wanted[folder].items()}
            states = self._check(entries, self._listing(list(mine)))
            for folder, future in mine.items():
                future.set_result(tuple(states[name] for name in wanted[folder]))
        except BaseException as exc:
            for future in mine.values():
                future.set_exception(exc)
            raise
        return [state for folder in wanted for state in self._folders[folder].result()]

    def _listing(self, folders: list[str]) -> Objects:
        if self._under_kernels is not None:
            return {name: info for folder in folders for name, info in self._under_kernels.get(folder, {}).items()}
        listings = in_parallel(self._bucket.list, folders, LISTINGS_AT_ONCE).values()
        return {name: info for listing in listings for name, info in listing.items()}

    def _check(self, wanted: Mapping[str, FileEntry], listing: Objects) -> dict[str, State]:
        """Read objects, some at a time, and compare each with its entry."""
        states: dict[str, State] = dict.fromkeys(wanted, "missing")
        fitting = []
        for name, entry in wanted.items():
            if name in listing and listing[name].size == entry.size:
                fitting.append(name)
            elif name in listing:
                states[name] = "bad"
                self.bad.append(Problem(name, f"has {listing[name].size} bytes, not the {entry.size} of its manifest"))
        for batch in batches({name: wanted[name].size for name in fitting}):
            for name, data in self._bucket.get_many(batch).items():
                if isinstance(data, RemoteError):
                    raise data
                if data is None:
                    continue
                self._count(1)
                states[name] = "good"
                if isinstance(data, UnfitObjectError):
                    states[name] = "bad"
                    self.bad.append(Problem(name, str(data)))
                elif hashlib.sha256(data).hexdigest() != wanted[name].sha256:
                    states[name] = "bad"
                    self.bad.append(Problem(name, "does not have the sha256 of its manifest"))
        return states

    def _count(self, objects: int) -> None:
        with self._lock:
            self.objects += objects


def _prefixes(workload: Workload) -> set[str]:
    """Return where the bundles lie that a workload lists; of kinds that change, all bundles of the key."""
    return {
        key_prefix(entry.kind, entry.key) + ("" if entry.kind in CHANGING else f"{entry.variant}/")
        for entry in workload.entries
    }


def _oldest_first(place: BundlePlace) -> tuple[int, str]:
    """Sort the variants of workloads: they count down."""
    return (-int(place.variant), "") if place.variant.isdecimal() else (-(10**10), place.variant)


def _is_kernel(path: str) -> bool:
    return path.startswith("kernels/")


def _said(exc: FormatError, name: str) -> str:
    return str(exc).removeprefix(f"{name}: ")


def _by_folder(objects: Objects, depth: int) -> Mapping[str, Objects]:
    """Group a listing by the first parts of its names."""
    folders: dict[str, dict[str, ObjectInfo]] = {}
    for name, info in objects.items():
        folders.setdefault("/".join(name.split("/")[:depth]) + "/", {})[name] = info
    return folders
