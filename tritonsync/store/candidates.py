"""Which manifests of a key are looked at: in rounds, until enough of them were accepted.

Whoever may write a bucket can put any number of bundles under a key. So what counts is what was accepted, not what was
seen: a first round looks at the newest bundles of the newest variants, and as long as that gives too little the next
looks at twice as many. Of a usual key all is known after the first. What a lookup may cost has totals all the same, in
manifests, in bytes and in time; no manifest takes more than a quarter of the bytes that are left, so that large ones of
a stranger leave room for a small good one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from tritonsync.errors import AccessDeniedError, FormatError, RemoteError, RemoteTimeoutError, UnfitObjectError
from tritonsync.format.bundle import CHANGING, is_variant
from tritonsync.format.layout import AUTOTUNE, BundlePlace, key_prefix, parse_manifest_name
from tritonsync.format.manifest import MAX_MANIFEST_BYTES, Manifest
from tritonsync.format.signing import TrustPolicy
from tritonsync.messages import warn_once
from tritonsync.remote.bucket import Answer, ObjectInfo
from tritonsync.remote.waiting import Deadline

__all__ = [
    "MAX_RIVALS",
    "MAX_VARIANTS",
    "Candidates",
    "Groups",
    "Listing",
    "Source",
    "check_time",
    "fullest_first",
    "granted",
    "newest_variants",
    "rivals_in",
]

log = logging.getLogger(__name__)

#: Variants of one key that a load offers, newest first.
MAX_VARIANTS = 8
#: Bundles of one variant that a first round looks at: generations, and the few duplicates of writers that raced.
MAX_RIVALS = 8
#: Manifests that one lookup fetches, and their bytes.
MAX_MANIFESTS = 512
MAX_BYTES = 64 * 1024 * 1024
#: Refused manifests that have a warning of their own.
_SAID = 3

Listing = Mapping[str, ObjectInfo]
#: Bundles by variant, those to be looked at first in front.
Groups = Mapping[str, list[BundlePlace]]


class Source(Protocol):
    """What is asked for objects: the bucket, or copies of some of it."""

    def list(self, prefix: str = "", *, timeout: float | None = None) -> Mapping[str, ObjectInfo]:
        """See `Bucket`."""

    def get_many(self, limits: Mapping[str, int], *, timeout: float | None = None) -> dict[str, Answer]:
        """See `Bucket`."""


Accepted = dict[str, list[tuple[Manifest, BundlePlace]]]


class Candidates:
    """One lookup of a key.

    Args:
        source: where the manifests are.
        trust: whose signatures count.
        kind: the cache the key belongs to.
        key: the key there.
        listing: of the key's prefix.
        deadline: of the lookup.

    Attributes:
        seen: what was looked at, in order; None for what was refused.
        lost: names of manifests that were listed and are gone, or that this identity may not read.
        failed: variants of which a manifest could not be asked for, and why.
        along: objects that were fetched with the first round.
    """

    def __init__(
        self, source: Source, trust: TrustPolicy, kind: str, key: str, listing: Listing, deadline: Deadline
    ) -> None:
        self._source, self._trust, self._listing, self._deadline = source, trust, listing, deadline
        self._kind, self._key, self._prefix = kind, key, key_prefix(kind, key)
        self._count, self._bytes = MAX_MANIFESTS, MAX_BYTES
        self._refused = self._said = 0
        self.seen: dict[BundlePlace, Manifest | None] = {}
        self.lost: set[str] = set()
        self.failed: dict[str, RemoteError] = {}
        self.along: dict[str, Answer] = {}

    def accepted(
        self,
        groups: Groups,
        enough: int = 1,
        *,
        usable: Callable[[Manifest], bool] = lambda _: True,
        first: Mapping[str, int] | None = None,
        along: Mapping[str, int] | None = None,
    ) -> Accepted:
        """Return the accepted manifests of each variant, highest generation first, and where they lie.

        Args:
            groups: the bundles to look at.
            enough: variants that are wanted; autotune results come in addition.
            usable: whether a manifest counts as one that is wanted.
            first: of how many rivals of a variant the first round is, where not of `MAX_RIVALS`.
            along: names and sizes of objects to be fetched with the first round.

        Raises:
            RemoteTimeoutError: there is no time left.
        """
        found: Accepted = {}
        left = {variant: deque(places) for variant, places in groups.items()}
        factor = 1
        while True:
            wanted = enough - sum(any(usable(manifest) for manifest, _ in each) for each in _variants(found))
            places = self._round(left, found, wanted * factor, factor, first or {})
            if self.failed or not (places or along):
                break
            for place, manifest in self._read_manifests(places, along or {}):
                found.setdefault(place.variant, []).append((manifest, place))
            along, factor = None, 2 * factor
        self._say_how_many()
        return {
            variant: sorted(found[variant], key=lambda pair: pair[0].generation, reverse=True)
            for variant in groups
            if variant in found
        }

    def _round(
        self,
        left: Mapping[str, deque[BundlePlace]],
        found: Accepted,
        variants: int,
        factor: int,
        first: Mapping[str, int],
    ) -> list[BundlePlace]:
        """Choose what to look at next: some rivals of so many variants of which nothing was accepted yet."""
        chosen: list[BundlePlace] = []
        for variant, places in left.items():
            if variant in found or not places or (variant != AUTOTUNE and variants <= 0):
                continue
            rivals = list(self._affordable(places, factor * first.get(variant, MAX_RIVALS)))
            variants -= bool(rivals) and variant != AUTOTUNE
            chosen += rivals
        return chosen

    def _affordable(self, places: deque[BundlePlace], count: int) -> Iterable[BundlePlace]:
        """Take the next bundles whose manifests the totals allow."""
        while places and count > 0:
            place = places.popleft()
            size = self._listing[place.manifest].size
            if self._count > 0 and size <= self._bytes // 4:
                self._count -= 1
                self._bytes -= size
                count -= 1
                yield place
            else:
                self._refused += 1

    def _read_manifests(
        self, places: Iterable[BundlePlace], along: Mapping[str, int]
    ) -> Iterable[tuple[BundlePlace, Manifest]]:
        limits = {place.manifest: self._listing[place.manifest].size for place in places}
        objects = self._source.get_many({**limits, **along}, timeout=self._deadline.left)
        self.along.update((name, objects[name]) for name in along)
        for place in places:
            check_time(self._deadline, self._prefix)
            manifest = self._accept(objects.pop(place.manifest), place)
            if manifest is not None:
                yield place, manifest

    def _accept(self, fetched: Answer, place: BundlePlace) -> Manifest | None:
        """Return the manifest, or None, with a warning, if its size, signature, place or content is unfit."""
        try:
            data = granted(fetched)
            if data is None:
                self.lost.add(place.manifest)
                return None
            self.seen[place] = None
            manifest = self._trust.accept(data, place)
        except RemoteError as exc:
            self.failed[place.variant] = exc
            return None
        except FormatError as exc:
            self.seen[place] = None
            self._refused += 1
            if self._said < _SAID:
                self._said += 1
                log.warning("left out of the cache: %s", exc)
            return None
        if (manifest.kind, manifest.key) != (self._kind, self._key):
            return None
        self.seen[place] = manifest
        return manifest

    def _say_how_many(self) -> None:
        if self._refused > self._said:
            log.warning("left out of the cache: %d bundles below %s in all", self._refused, self._prefix)


def check_time(deadline: Deadline, what: str) -> None:
    """Go on only if there is time left: work on this host counts like waiting for the bucket.

    Raises:
        RemoteTimeoutError: there is none.
    """
    if deadline.left == 0.0:
        raise RemoteTimeoutError(f"{what} was given up: there was no time left to read what lies there")


def granted(data: Answer) -> bytes | None:
    """Return an object; one that was refused counts as missing, said once.

    Whoever may list a bucket and is refused one object meets a matter of that object: another storage class, another
    encryption key, another mode. A refusal that concerns everything is met by the listing, and raised there.

    Raises:
        UnfitObjectError: it is larger than it may be, or no regular file.
        RemoteError: the bucket could not be asked.
    """
    if isinstance(data, AccessDeniedError):
        warn_once(log, "refused", "going on without one object: %s", data)
        return None
    if isinstance(data, (RemoteError, UnfitObjectError)):
        raise data
    return data


def fullest_first(places: Iterable[BundlePlace], listing: Listing) -> list[BundlePlace]:
    """Sort the lists of autotune results of a key: the first holds what the others do, but for writers that raced.

    A list is only ever followed by a fuller one. Their times would not do: a copied bucket has others.
    """
    return sorted(places, key=lambda place: -listing[place.manifest].size)


def rivals_in(kind: str, listing: Listing) -> dict[str, list[BundlePlace]]:
    """Group the bundles of a key's listing by variant, each group newest first."""
    rivals: dict[str, list[BundlePlace]] = {}
    for name in sorted(listing, key=lambda name: -(listing[name].modified or 0)):
        place = parse_manifest_name(name)
        if place is None or not is_variant(kind, place.variant):
            continue
        if listing[name].size > MAX_MANIFEST_BYTES:
            log.warning("left out of the cache: %s has %d bytes; a manifest has less", name, listing[name].size)
            continue
        rivals.setdefault(place.variant, []).append(place)
    return rivals


def newest_variants(
    kind: str, rivals: Groups, listing: Listing, only: Collection[str] | None = None
) -> dict[str, list[BundlePlace]]:
    """Sort the variants, the newest first.

    Variants that are made of a time sort by name, newest first; when their objects were written says nothing in a
    bucket that was copied.
    """
    wanted = sorted(variant for variant in rivals if variant != AUTOTUNE and (only is None or variant in only))
    if kind in CHANGING:
        wanted.sort(key=lambda variant: not variant.isdecimal())
    else:
        wanted.sort(key=lambda variant: -(listing[rivals[variant][0].manifest].modified or 0))
    return {variant: rivals[variant] for variant in wanted}


def _variants(found: Accepted) -> Iterable[list[tuple[Manifest, BundlePlace]]]:
    return (each for variant, each in found.items() if variant != AUTOTUNE)
