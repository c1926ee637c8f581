"""What may go from a bucket: what `tritonsync gc` marks, and sweep.py takes away.

A *kept list* is one of the newest lists of a workload that is not too old itself. A bundle stays while a kept list
names it, or while it is younger than the age that was asked for. Everything that is younger than the grace period
stays, whatever names it: a writer may be about to name it. A reader may hold a list that another one has replaced
since, or that has become too old, so it counts as kept for as long again. No list names a cache folder of another
library (`folder`): its bundles are kept as lists are, the newest of each key. Objects whose names are not those of
format/layout.py are somebody else's: they neither go nor count.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from tritonsync import times
from tritonsync.errors import FormatError, NewerFormatError
from tritonsync.format.bundle import CHANGING, KINDS, ROOTS
from tritonsync.format.layout import (
    AUTOTUNE,
    BundlePlace,
    kernel_folder_of,
    kernel_prefix,
    parse_manifest_name,
    parse_object_name,
    stored_key,
)
from tritonsync.format.workload import WorkloadEntry, workload_of_manifest
from tritonsync.remote.bucket import Bucket, ObjectInfo
from tritonsync.store.catalog import Catalog, Objects, places_in

__all__ = ["Lists", "Named", "Plan", "Policy", "folders_of", "mark", "objects_of_bundles"]

Clock = Callable[[], float]
#: Kind and key of what no list names.
Root = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Policy:
    """What is to stay.

    Attributes:
        older_than: seconds; what no kept list names goes when it is older, and so do lists. None: it stays.
        keep_last: lists of each workload, and bundles of each folder, that are kept, newest first.
        workload: only what this workload's lists name, and no other list, may go. None: everything may.
        max_bytes: of the whole bucket; workloads and folders that were published longest ago go until it fits. None: no
            limit.
        grace: seconds; nothing younger goes.
    """

    older_than: float | None = None
    keep_last: int = 1
    workload: str | None = None
    max_bytes: int | None = None
    grace: float = times.GRACE_S


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to go.

    Attributes:
        bundles: lists first, then the oldest bundle first.
        leftovers: names of objects of bundles that have no manifest.
        folders: prefixes of kernel folders that no bundle uses that stays.
        bytes: of all their objects.
        kept_bundles: how many stay.
        kept_bytes: of their objects, and of the kernel folders that stay.
    """

    bundles: tuple[BundlePlace, ...]
    leftovers: tuple[str, ...]
    folders: tuple[str, ...]
    bytes: int
    kept_bundles: int
    kept_bytes: int


class Lists:
    """The lists of a bucket, read as they come."""

    def __init__(self, bucket: Bucket, catalog: Catalog) -> None:
        self._bucket, self._catalog = bucket, catalog
        self._entries: dict[BundlePlace, frozenset[WorkloadEntry]] = {}

    def read(self, places: Iterable[BundlePlace], objects: Objects | None = None) -> None:
        """Read the lists that are not known yet, of this listing; one that cannot be read names nothing."""
        new = [place for place in places if place not in self._entries]
        for place, manifest in self._catalog.manifests(new, objects):
            entries: tuple[WorkloadEntry, ...] = ()
            if not isinstance(manifest, FormatError):
                try:
                    entries = workload_of_manifest(manifest).entries
                except FormatError:
                    entries = ()
            self._entries[place] = frozenset(entries)

    def entries(self, places: Iterable[BundlePlace]) -> set[WorkloadEntry]:
        """Return what these lists name."""
        return {entry for place in places for entry in self._entries.get(place, ())}

    def since(self, known: Collection[BundlePlace]) -> set[WorkloadEntry]:
        """Look for lists that were not there before, and return what they name."""
        objects = self._bucket.list("bundles/workload/")
        found = [place for place in places_in(objects) if place not in known]
        self.read(found, objects)
        return self.entries(found)


class Named:
    """Whether bundles are named by entries of lists."""

    def __init__(self, entries: Iterable[WorkloadEntry]) -> None:
        self._variants: set[tuple[str, str, str]] = set()
        self._keys: set[tuple[str, str]] = set()
        for entry in entries:
            key = stored_key(entry.kind, entry.key)
            self._variants.add((entry.kind, key, entry.variant))
            self._keys.add((entry.kind, key))

    def __contains__(self, place: BundlePlace) -> bool:
        # Of what changes, every list means the newest; autotune results belong to all variants of their graph.
        if place.kind in CHANGING or place.variant == AUTOTUNE:
            return (place.kind, place.key) in self._keys
        return (place.kind, place.key, place.variant) in self._variants


def mark(catalog: Catalog, policy: Policy, *, clock: Clock = time.time) -> Plan:
    """Find what may go.

    Args:
        catalog: of the bucket, without a trust policy: what is not signed is needed by whoever published it.
        policy: what is to stay. What a newer tritonsync wrote stays in any case.
        clock: seconds since 1970, by the bucket's clock as well as that is known.

    Raises:
        RemoteError: the bucket could not be asked.
    """
    now, objects = clock(), catalog.objects
    ages = {place: now - (objects[place.manifest].modified or 0.0) for place in catalog.places}
    parts = objects_of_bundles(objects)
    sizes = {prefix: sum(objects[name].size for name in names) for prefix, names in parts.items()}
    kernels = _kernel_folders(catalog.bucket.list("kernels/"))
    kernel_sizes = {folder: sum(info.size for info in files) for folder, files in kernels.items()}
    uses, newer = folders_of(catalog, catalog.places)
    lists = Lists(catalog.bucket, catalog)
    roots = _roots(catalog.places)
    lists.read(place for places in roots.values() for place in places if place.kind == "workload")
    kept = _kept_roots(roots, ages, policy)

    def found(policy: Policy) -> tuple[set[BundlePlace], list[str], int]:
        going = _going(catalog.places, kept, lists, ages, policy) - newer
        # Which folders a bundle of a newer format uses is not known here.
        folders = [] if newer else _unused_folders(uses, going, kernels, now, policy)
        size = sum(sizes[place.prefix] for place in going) + sum(kernel_sizes[folder] for folder in folders)
        return going, folders, size

    going, folders, freed = found(policy)
    total = sum(sizes.values()) + sum(kernel_sizes.values())
    oldest_first = sorted((places[0] for places in kept.values() if places), key=lambda place: -ages[place])
    for place in oldest_first if policy.max_bytes is not None else ():
        if total - freed <= (policy.max_bytes or 0) or ages[place] <= policy.grace:
            break
        kept[place.kind, place.key] = []
        going, folders, freed = found(dataclasses.replace(policy, older_than=policy.grace))
    staying = len(catalog.places) - len(going)
    leftovers = () if policy.workload is not None else _leftovers(objects, now, policy.grace)
    freed += sum(objects[name].size for name in leftovers)
    return Plan(
        bundles=tuple(sorted(going, key=lambda place: (place.kind not in ROOTS, -ages[place], place.prefix))),
        leftovers=leftovers,
        folders=tuple(folders),
        bytes=freed,
        kept_bundles=staying,
        kept_bytes=total - freed,
    )


def _roots(places: Iterable[BundlePlace]) -> dict[Root, list[BundlePlace]]:
    """Group what no list names, the lists of each workload above all, newest first: their variants count down."""
    found: dict[Root, list[BundlePlace]] = {}
    for place in sorted((place for place in places if place.kind in ROOTS), key=lambda place: place.variant):
        found.setdefault((place.kind, place.key), []).append(place)
    return found


def _kept_roots(
    roots: Mapping[Root, list[BundlePlace]], ages: Mapping[BundlePlace, float], policy: Policy
) -> dict[Root, list[BundlePlace]]:
    """Return the lists of each workload, and the bundles of each folder, that are kept: the newest, unless too old."""
    chosen = None if policy.workload is None else ("workload", stored_key("workload", policy.workload))
    limit = float("inf") if policy.older_than is None else policy.older_than
    kept = {}
    for root, places in roots.items():
        if chosen not in (None, root):
            kept[root] = places
            continue
        kept[root] = [
            place
            for number, place in enumerate(places)
            if ages[place] <= policy.grace
            # Who has read it before it was too old, or before the list that takes its place came, may still use it.
            or (number < policy.keep_last and ages[place] <= limit + policy.grace)
            or (0 < policy.keep_last <= number and ages[places[number - policy.keep_last]] <= policy.grace)
        ]
    return kept


def _going(
    places: Iterable[BundlePlace],
    kept: Mapping[Root, list[BundlePlace]],
    lists: Lists,
    ages: Mapping[BundlePlace, float],
    policy: Policy,
) -> set[BundlePlace]:
    """Return the bundles that go: lists that are not kept, and what no kept list names and is old."""
    places = list(places)
    kept_roots = {place for group in kept.values() for place in group}
    going = {place for place in places if place.kind in ROOTS and place not in kept_roots}
    named = Named(lists.entries(kept_roots))
    if policy.workload is not None:
        # What the chosen workload's lists name and nobody else needs.
        theirs = Named(lists.entries(place for place in going))
        limit = policy.grace
    else:
        theirs = None
        limit = float("inf") if policy.older_than is None else policy.older_than
    for place in places:
        if place.kind in ROOTS or place in named or ages[place] <= max(limit, policy.grace):
            continue
        if theirs is None or place in theirs:
            going.add(place)
    return {place for place in going if ages[place] > policy.grace or place.kind in ROOTS}


def _unused_folders(
    uses: Mapping[BundlePlace, frozenset[str]],
    going: Collection[BundlePlace],
    kernels: Mapping[str, list[ObjectInfo]],
    now: float,
    policy: Policy,
) -> list[str]:
    """Return the kernel folders that nothing uses that stays; those of one workload only, if one was chosen."""
    used = {folder for place, folders in uses.items() if place not in going for folder in folders}
    theirs = {folder for place in going for folder in uses.get(place, ())}
    return [
        folder
        for folder, files in sorted(kernels.items())
        if folder not in used
        and all(_is_old(info, now, policy.grace) for info in files)
        and (policy.workload is None or folder in theirs)
    ]


def folders_of(
    catalog: Catalog, places: Iterable[BundlePlace]
) -> tuple[dict[BundlePlace, frozenset[str]], set[BundlePlace]]:
    """Return the kernel folders that each bundle uses, and the bundles of a newer format; damaged ones use none."""
    uses, newer = {}, set()
    for place, manifest in catalog.manifests(places):
        if isinstance(manifest, NewerFormatError):
            newer.add(place)
        elif not isinstance(manifest, FormatError):
            uses[place] = frozenset(kernel_prefix(kernel.hash, kernel.content_id) for kernel in manifest.kernels)
    return uses, newer


def objects_of_bundles(objects: Objects) -> dict[str, list[str]]:
    """Group the names of a listing by the prefix of their bundle; what no tritonsync writes is left out."""
    found: dict[str, list[str]] = {}
    for name in objects:
        place = parse_object_name(name)
        if place is not None:
            found.setdefault(place.prefix, []).append(name)
    return found


def _kernel_folders(objects: Objects) -> dict[str, list[ObjectInfo]]:
    """Group the files of a listing by their kernel folder; what no tritonsync writes is left out."""
    found: dict[str, list[ObjectInfo]] = {}
    for name, info in objects.items():
        folder = kernel_folder_of(name)
        if folder is not None:
            found.setdefault(folder, []).append(info)
    return found


def _leftovers(objects: Objects, now: float, grace: float) -> tuple[str, ...]:
    """Return what writers that were killed, and sweeps, have left: old objects of bundles that have no manifest."""
    with_manifest = {place.prefix for place in map(parse_manifest_name, objects) if place is not None}
    found = []
    for name, info in sorted(objects.items()):
        place = parse_object_name(name)
        # What belongs to a bundle of a kind that is not known here is not known either.
        if place is not None and place.kind in KINDS and place.prefix not in with_manifest:
            found += [name] if _is_old(info, now, grace) else []
    return tuple(found)


def _is_old(info: ObjectInfo, now: float, grace: float) -> bool:
    return now - (info.modified or 0.0) > grace
