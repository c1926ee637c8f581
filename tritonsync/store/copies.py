"""Copies of what a workload lists, in one object beside its manifest: one request instead of some for each bundle.

Graphs are copied, with their kernels and autotune results. Most kernels of no graph are in the workload's own bundle,
or in bundles of many, and values of kinds that change have to be asked for. A copy may be older than what the bucket
holds now: another generation may have come since. Whoever is not served by it asks the bucket.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from tritonsync.errors import FormatError, RemoteError
from tritonsync.format import start
from tritonsync.format.bundle import GRAPHS
from tritonsync.format.layout import AUTOTUNE, BundlePlace, key_prefix
from tritonsync.format.workload import WorkloadEntry
from tritonsync.remote.bucket import Answer, Bucket, ObjectInfo
from tritonsync.remote.threads import in_parallel
from tritonsync.remote.waiting import Deadline
from tritonsync.store.candidates import Groups, Listing, fullest_first, rivals_in

__all__ = ["Copies", "copies_in", "publish_copies", "start_in"]

log = logging.getLogger(__name__)

#: Listings at a time.
LISTINGS_AT_ONCE = 16


class Copies:
    """Objects that a start holds; asked like a bucket.

    Args:
        objects: by name.
    """

    def __init__(self, objects: Mapping[str, memoryview]) -> None:
        self._objects = objects
        self._by_key: dict[str, dict[str, ObjectInfo]] = {}
        for name, data in objects.items():
            prefix = "/".join(name.split("/")[:3]) + "/"
            self._by_key.setdefault(prefix, {})[name] = ObjectInfo(size=len(data), modified=None)

    def hold(self, kind: str, key: str) -> bool:
        """Whether anything of a key is among them."""
        return key_prefix(kind, key) in self._by_key

    def list(self, prefix: str = "", *, timeout: float | None = None) -> Mapping[str, ObjectInfo]:  # noqa: ARG002
        """Return what lies below the prefix of a key."""
        return self._by_key.get(prefix, {})

    def get_many(self, limits: Mapping[str, int], *, timeout: float | None = None) -> dict[str, Answer]:  # noqa: ARG002
        """Return objects: bytes, None for one that is not there, or is larger than it may be."""
        found = {name: self._objects.get(name) for name in limits}
        return {name: None if data is None or len(data) > limits[name] else bytes(data) for name, data in found.items()}


def start_in(groups: Groups, listing: Listing) -> str | None:
    """Return the name of the start of a workload's newest list, if there is one that may be read."""
    for places in groups.values():
        info = listing.get(places[0].start)
        return places[0].start if info is not None and info.size <= start.MAX_START_BYTES else None
    return None


def copies_in(data: Answer, name: str) -> Copies | None:
    """Read a start as it was fetched; None where there is none that can be used."""
    if isinstance(data, RemoteError):
        log.info("going on without %s: %s", name, data)
    if not isinstance(data, bytes):
        return None
    try:
        return Copies(start.decode(data))
    except FormatError as exc:
        log.warning("going on without %s: %s", name, exc)
        return None


def publish_copies(
    bucket: Bucket, place: BundlePlace, entries: Iterable[WorkloadEntry], *, timeout: float | None = None
) -> bool:
    """Copy what a published list names, as much as a start may have; return whether there was something to copy.

    The bundles are read from the bucket: what readers find there is what is copied, whoever wrote it.

    Raises:
        RemoteError: the bucket could not be asked, or refused the write.
    """
    deadline = Deadline(timeout)
    wanted: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        if entry.kind in GRAPHS:
            wanted.setdefault((entry.kind, entry.key), set()).add(entry.variant)
    if not wanted or place.start in bucket.list(place.prefix, timeout=deadline.left):
        return False
    prefixes = {key_prefix(*key): key for key in wanted}
    listings = in_parallel(lambda p: bucket.list(p, timeout=deadline.left), prefixes, LISTINGS_AT_ONCE)
    sizes: dict[str, int] = {}
    room = start.Room()
    for prefix, listing in listings.items():
        kind, key = prefixes[prefix]
        more = _chosen(kind, wanted[kind, key], listing)
        if room.take(more):
            sizes.update(more)
    found = bucket.get_many(sizes, timeout=deadline.left)
    objects = {name: data for name, data in found.items() if isinstance(data, bytes)}
    return bucket.create(place.start, start.encode(objects), timeout=deadline.left)


def _chosen(kind: str, variants: set[str], listing: Listing) -> dict[str, int]:
    """Return names and sizes of what is copied of a key: of each variant the newest bundle, and autotune results."""
    rivals = rivals_in(kind, listing)
    places = [rivals[variant][0] for variant in sorted(variants) if variant in rivals]
    if places:
        places += fullest_first(rivals.get(AUTOTUNE, []), listing)[:1]
    names = [name for place in places for name in (place.manifest, place.pack) if name in listing]
    return {name: listing[name].size for name in names}
