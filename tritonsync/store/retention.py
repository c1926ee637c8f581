"""What may go from a bucket: what `tritonsync gc` marks, and sweep.py takes away.

A *kept list* is one of the newest lists of a workload that is not too old itself. Who trusts other keys takes other
lists, so the newest are counted by signer, and only those that can be read. A bundle stays while a kept list names it,
or one that cannot be read may do so, or while it is younger than the age that was asked for. Of what changes under one
key, a list names the newest, so what came before goes by its age. Everything that is younger than the grace period
stays, whatever names it: a writer may be about to name it. A reader may hold a list that another one has replaced
since, or that has become too old, so it counts as kept for as long again. No list names a cache folder of another
library (`folder`): its bundles are kept as lists are, the newest of each key. Objects whose names are not those of
format/layout.py are somebody else's: they neither go nor count. What the bucket gives no time for counts as just
written.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from tritonsync import times
from tritonsync.format.bundle import CHANGING, KINDS, ROOTS
from tritonsync.format.layout import BundlePlace, kernel_folder_of, parse_manifest_name, parse_object_name, stored_key
from tritonsync.format.signing import TrustPolicy
from tritonsync.remote.bucket import ObjectInfo
from tritonsync.store.catalog import Catalog, Objects
from tritonsync.store.needs import Needs, name_of
from tritonsync.store.shrink import Going, steps

__all__ = ["Plan", "Policy", "mark", "objects_of_bundles"]

Clock = Callable[[], float]
#: Kind, and key as it stands in object names.
Key = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Policy:
    """What is to stay.

    Attributes:
        older_than: seconds; what no kept list names goes when it is older, and so do lists. None: it stays.
        keep_last: lists of each workload, and bundles of each folder, that are kept of each signer, newest first; of a
            key that changes and that a kept list names, so many bundles are, and one at least.
        workload: only what this workload's lists name, and no other list, may go. None: everything may.
        max_bytes: of the whole bucket; until it fits, workloads and folders go that were published longest ago, then
            what no list names, the oldest first. None: no limit.
        grace: seconds; nothing younger goes.
        trust: whose signatures can be checked. A list that says to be signed by another key takes no other's place, and
            none takes its own: it goes for its age alone.
    """

    older_than: float | None = None
    keep_last: int = 1
    workload: str | None = None
    max_bytes: int | None = None
    grace: float = times.GRACE_S
    trust: TrustPolicy = dataclasses.field(default_factory=TrustPolicy)


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
        unread: lists that stay and could not be read, for which everything stays that no list names.
        strange: lists that stay and say to be signed by a key that is not known here.
    """

    bundles: tuple[BundlePlace, ...]
    leftovers: tuple[str, ...]
    folders: tuple[str, ...]
    bytes: int
    kept_bundles: int
    kept_bytes: int
    unread: tuple[BundlePlace, ...]
    strange: tuple[BundlePlace, ...] = ()


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
    ages = {place: _age(objects[place.manifest], now) for place in catalog.places}
    parts = objects_of_bundles(objects)
    sizes = {prefix: sum(objects[name].size for name in names) for prefix, names in parts.items()}
    kernels = _kernel_folders(catalog.bucket.list("kernels/"))
    kernel_sizes = {folder: sum(info.size for info in files) for folder, files in kernels.items()}
    needs = Needs(catalog, policy.trust)
    needs.read(catalog.places)
    chosen = None if policy.workload is None else ("workload", stored_key("workload", policy.workload))
    kept = _kept_roots(_by_key(catalog.places, ROOTS), needs, ages, policy, chosen)
    kept_roots = [place for places in kept.values() for place in places]
    unread = tuple(place for place in _lists(kept_roots) if not needs.is_readable(place))
    # Which folders a bundle of a newer format uses is not known here.
    old = {} if needs.newer else {folder: files for folder, files in kernels.items() if _are_old(files, now, policy)}
    going = Going(catalog.places, needs, sizes, {folder: kernel_sizes[folder] for folder in old})
    leftovers: tuple[str, ...] = ()
    if policy.workload is None:
        leftovers = _leftovers(objects, now, policy)
        going.take_unused()
    outdated = _outdated(catalog.places, needs, ages, policy)
    for place in _going(catalog.places, kept_roots, outdated, needs, ages, policy):
        going.take(place)
    total = sum(sizes.values()) + sum(kernel_sizes.values())
    left = total - sum(objects[name].size for name in leftovers)
    # What a list that cannot be read names is not known here either.
    if policy.max_bytes is not None and not unread:
        may_go = {place for place in catalog.places if ages[place] >= policy.grace} - needs.newer
        if chosen is not None:
            may_go = {place for place in may_go if place.kind not in ROOTS or (place.kind, place.key) == chosen}
        for step in steps(kept_roots, may_go, outdated, needs, ages, unnamed=chosen is None):
            if left - going.bytes <= policy.max_bytes:
                break
            for place in step:
                going.take(place)
    return Plan(
        bundles=tuple(sorted(going.bundles, key=lambda place: (place.kind not in ROOTS, -ages[place], place.prefix))),
        leftovers=leftovers,
        folders=tuple(sorted(going.folders)),
        bytes=total - left + going.bytes,
        kept_bundles=len(catalog.places) - len(going.bundles),
        kept_bytes=left - going.bytes,
        unread=unread,
        strange=tuple(place for place in _lists(kept_roots) if needs.is_strange(place)),
    )


def _by_key(places: Iterable[BundlePlace], kinds: Collection[str]) -> dict[Key, list[BundlePlace]]:
    """Group the bundles of kinds that change by their key, newest first: their variants count down."""
    found: dict[Key, list[BundlePlace]] = {}
    for place in sorted((place for place in places if place.kind in kinds), key=lambda place: place.variant):
        found.setdefault((place.kind, place.key), []).append(place)
    return found


def _outdated(
    places: Iterable[BundlePlace], needs: Needs, ages: Mapping[BundlePlace, float], policy: Policy
) -> set[BundlePlace]:
    """Return those of what changes and lists name that others of their key have replaced."""
    found = set()
    for group in _by_key(places, set(CHANGING) - set(ROOTS)).values():
        found |= set(group) - _current(group, needs, ages, max(policy.keep_last, 1), policy.grace)
    return found


def _lists(places: Iterable[BundlePlace]) -> list[BundlePlace]:
    return [place for place in places if place.kind == "workload"]


def _kept_roots(
    roots: Mapping[Key, list[BundlePlace]],
    needs: Needs,
    ages: Mapping[BundlePlace, float],
    policy: Policy,
    chosen: Key | None,
) -> dict[Key, list[BundlePlace]]:
    """Return the lists of each workload, and the bundles of each folder, that are kept: the newest, unless too old."""
    limit = float("inf") if policy.older_than is None else policy.older_than
    kept = {}
    for root, places in roots.items():
        if chosen not in (None, root):
            kept[root] = places
            continue
        current = _current(places, needs, ages, policy.keep_last, policy.grace, limit)
        kept[root] = [place for place in places if place in current or place in needs.newer]
    return kept


def _current(
    places: Iterable[BundlePlace],
    needs: Needs,
    ages: Mapping[BundlePlace, float],
    count: int,
    grace: float,
    limit: float = float("inf"),
) -> set[BundlePlace]:
    """Return which bundles of one key, newest first, somebody may be using.

    That is: of each signer so many of the newest that are not too old, what is young, and what was replaced lately. One
    that cannot be read does not take the place of another; it counts until any signer's have taken its own.
    """
    found = set()
    readable: list[BundlePlace] = []
    by_signer: dict[str | None, list[BundlePlace]] = {}
    for place in places:
        is_readable = needs.is_readable(place)
        newer = by_signer.setdefault(needs.signer(place), []) if is_readable else readable
        if (
            ages[place] < grace
            # Who has read it before it was too old, or before the one that takes its place came, may still use it.
            or (len(newer) < count and ages[place] <= limit + grace)
            or (0 < count <= len(newer) and ages[newer[len(newer) - count]] < grace)
        ):
            found.add(place)
        if is_readable:
            by_signer[needs.signer(place)].append(place)
            readable.append(place)
    return found


def _going(
    places: Iterable[BundlePlace],
    kept_roots: Collection[BundlePlace],
    outdated: Collection[BundlePlace],
    needs: Needs,
    ages: Mapping[BundlePlace, float],
    policy: Policy,
) -> set[BundlePlace]:
    """Return the bundles that go: lists that are not kept, and what is old and outdated, or named by no kept list."""
    places = list(places)
    going = {place for place in places if place.kind in ROOTS} - set(kept_roots)
    named = needs.named(_lists(kept_roots))
    if policy.workload is not None:
        # What the chosen workload's lists name and nobody else needs.
        theirs = {name for place in going for name in needs.names(place)}
        limit = float("-inf")
    else:
        theirs = None
        limit = float("inf") if policy.older_than is None else policy.older_than
    for place in places:
        if place.kind in ROOTS or ages[place] < policy.grace or ages[place] <= limit:
            continue
        if place in named and (place not in outdated or named.anything):
            continue
        if theirs is None or name_of(place) in theirs:
            going.add(place)
    return going - needs.newer


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


def _leftovers(objects: Objects, now: float, policy: Policy) -> tuple[str, ...]:
    """Return what writers that were killed, and sweeps, have left: old objects of bundles that have no manifest."""
    with_manifest = {place.prefix for place in map(parse_manifest_name, objects) if place is not None}
    found = []
    for name, info in sorted(objects.items()):
        place = parse_object_name(name)
        # What belongs to a bundle of a kind that is not known here is not known either.
        if place is not None and place.kind in KINDS and place.prefix not in with_manifest:
            found += [name] if _are_old([info], now, policy) else []
    return tuple(found)


def _are_old(files: Iterable[ObjectInfo], now: float, policy: Policy) -> bool:
    return all(_age(info, now) >= policy.grace for info in files)


def _age(info: ObjectInfo, now: float) -> float:
    """Return seconds; none where the bucket does not say when an object was written, or has a faster clock."""
    return 0.0 if info.modified is None else max(now - info.modified, 0.0)
