"""Bundles out of a bucket.

A load costs one listing, then manifest and pack together. The reader composes the format and the bucket and knows no
cache of this host.

What is damaged, signed by a stranger or of a newer format is never an exception here: it is a miss with one warning
that names the object, and `Found.damaged` says where a writer should look for itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from tritonsync.errors import FormatError, PackError, RemoteError
from tritonsync.format import pack as packs
from tritonsync.format.bundle import CHANGING, Bundle
from tritonsync.format.layout import AUTOTUNE, BundlePlace, key_prefix, parse_manifest_name
from tritonsync.format.manifest import MAX_MANIFEST_BYTES, Manifest
from tritonsync.format.ranks import Rank, fulfilled, is_variant_of_another
from tritonsync.format.signing import TrustPolicy
from tritonsync.remote.bucket import Bucket, ObjectInfo
from tritonsync.remote.waiting import Deadline

__all__ = ["Found", "Loaded", "Reader"]

log = logging.getLogger(__name__)

#: Variants of one key that a load looks at, newest first.
MAX_VARIANTS = 8
#: Bundles of one variant that are looked at, newest first: generations, and the few duplicates of writers that raced.
MAX_RIVALS = 8
#: A pack above this many bytes is read only once its manifest has promised the size.
MAX_UNPROMISED_PACK = 256 * 1024 * 1024

Listing = Mapping[str, ObjectInfo]
Objects = Mapping[str, "bytes | RemoteError | None"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A bundle, checked in full, and where it lay."""

    bundle: Bundle
    manifest: Manifest
    place: BundlePlace


@dataclasses.dataclass(frozen=True)
class Found:
    """What the bucket holds for one key.

    Attributes:
        bundles: the best bundle of each variant that could be loaded, newest first.
        present: manifests of those that were not read, because `have` knew them.
        autotune: names and contents of the autotune results under the key.
        damaged: variants that could not be loaded because what lies there is damaged, or looked so.
    """

    bundles: tuple[Loaded, ...] = ()
    present: tuple[Manifest, ...] = ()
    autotune: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    damaged: frozenset[str] = frozenset()


class Reader:
    """Loads bundles.

    Args:
        bucket: where they are.
        trust: which signatures are asked for; everything is trusted by default.
        cpu: `machine:isa` of this host; a bundle that requires another one is not offered. None: this host takes none
            that requires any.
        rank: of this process in its job; what belongs to another one is not offered. None: nor is what belongs to any.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        trust: TrustPolicy | None = None,
        cpu: str | None = None,
        rank: Rank | None = None,
    ) -> None:
        self.bucket = bucket
        self.trust = trust or TrustPolicy()
        self.cpu = cpu
        self.rank = rank

    def load(
        self,
        kind: str,
        key: str,
        *,
        variants: Collection[str] | None = None,
        newest: int = MAX_VARIANTS,
        have: Callable[[Manifest], bool] | None = None,
        timeout: float | None = None,
    ) -> Found:
        """Fetch the best bundle of each variant of a key, and the autotune results that lie under it.

        Args:
            kind: the cache the key belongs to.
            key: the key there.
            variants: only these, if given.
            newest: at most so many variants.
            have: asked with each manifest; where it says True the pack is not read. Costs one more round trip.
            timeout: seconds for all of it.

        Raises:
            RemoteError: the bucket could not be asked. What it held and was unfit is a miss.
        """
        deadline = Deadline(timeout)
        listing = self.bucket.list(key_prefix(kind, key), timeout=deadline.left)
        rivals = rivals_in(listing)
        autotune = rivals.pop(AUTOTUNE, [])
        # Told by their names, so that the other ranks of a job take none of the places below.
        mine = {each: places for each, places in rivals.items() if not is_variant_of_another(each, self.rank)}
        rivals = _newest(kind, mine, listing, variants, newest)
        names = [place.manifest for place in itertools.chain(autotune, *rivals.values())]
        if have is None:
            only = [places[0].pack for places in rivals.values() if len(places) == 1]
            names += [name for name in only if name in listing and listing[name].size <= MAX_UNPROMISED_PACK]
        objects = self.bucket.get_many(names, timeout=deadline.left)
        present: list[Manifest] = []
        bundles: list[Loaded] = []
        damaged: set[str] = set()
        met = fulfilled(self.cpu, self.rank)
        for variant, places in rivals.items():
            candidates = self._candidates(kind, key, places, objects)
            for found, place in candidates:
                if found.environment.requires not in met:
                    damaged.discard(variant)  # good, but not for this host
                    break
                if have is not None and have(found):
                    present.append(found)
                    damaged.discard(variant)
                    break
                try:
                    bundle = self._content(found, place, objects.get(place.pack), deadline)
                except PackError:
                    damaged.add(variant)
                    continue
                if bundle is not None:
                    bundles.append(Loaded(bundle, found, place))
                    damaged.discard(variant)
                    break
        return Found(tuple(bundles), tuple(present), self._autotune(autotune, objects), frozenset(damaged))

    def manifest(self, place: BundlePlace, *, timeout: float | None = None) -> Manifest | None:
        """Fetch one manifest; None where it is missing or unfit."""
        data = self.bucket.get(place.manifest, timeout=timeout)
        return self._accept(place, data)

    def load_content(self, manifest: Manifest, *, timeout: float | None = None) -> Bundle | None:
        """Load the content that a manifest promises: from the pack, else from payloads and kernel folders.

        Returns:
            None, with a warning, where that is missing or damaged.
        """
        try:
            return self._content(manifest, manifest.place, None, Deadline(timeout))
        except PackError:
            return None

    def _candidates(
        self, kind: str, key: str, places: Iterable[BundlePlace], objects: Objects
    ) -> list[tuple[Manifest, BundlePlace]]:
        """Read the manifests of one variant, highest generation first."""
        found = []
        for place in places:
            data = objects.get(place.manifest)
            accepted = self._accept(place, data)
            if accepted is not None and (accepted.kind, accepted.key) == (kind, key):
                found.append((accepted, place))
        return sorted(found, key=lambda pair: pair[0].generation, reverse=True)

    def _accept(
        self, place: BundlePlace, data: bytes | RemoteError | None, trust: TrustPolicy | None = None
    ) -> Manifest | None:
        """Validate a manifest, its place and its signature; None, with one warning, if any of them is unfit."""
        if isinstance(data, RemoteError):
            raise data
        if data is None:
            return None
        try:
            return (trust or self.trust).accept(data, place)
        except FormatError as exc:
            log.warning("left out of the cache: %s", exc)
            return None

    def _content(
        self, found: Manifest, place: BundlePlace, pack: bytes | RemoteError | None, deadline: Deadline
    ) -> Bundle | None:
        """Return the bundle from its pack, or from single objects; None, with a warning, where both are missing.

        Raises:
            PackError: what lies there is damaged and nothing makes up for it; the warning is given.
        """
        packed = None
        if found.pack is not None:
            packed = pack if isinstance(pack, bytes) else self.bucket.get(place.pack, timeout=deadline.left)
            try:
                if packed is not None:
                    return packs.decode(packed, found)
                log.warning("%s is missing; reading the bundle's single objects instead", place.pack)
            except PackError as exc:
                log.warning("%s is damaged (%s); reading the bundle's single objects instead", place.pack, exc)
        names = {member: _object_name(place, member) for member, _ in found.members()}
        objects = self.bucket.get_many(names.values(), timeout=deadline.left)
        members: dict[str, bytes] = {}
        for member, name in names.items():
            data = objects[name]
            if isinstance(data, RemoteError):
                raise data
            if data is not None:
                members[member] = data
        try:
            return packs.assemble(found, members)
        except PackError as exc:
            log.warning("%s cannot be loaded: %s", place.prefix, exc)
            if found.pack is None or packed is not None:
                raise
            return None  # a server that is replacing the pack, or one that lost it

    def _autotune(self, places: Iterable[BundlePlace], objects: Objects) -> dict[str, bytes]:
        """Unite the autotune results of a key; `places` has the newest first, and the newest wins."""
        results: dict[str, bytes] = {}
        for place in places:
            data = objects.get(place.manifest)
            accepted = None if isinstance(data, RemoteError) else self._accept(place, data)
            for name, text in ((accepted and accepted.inline) or {}).items():
                results.setdefault(name, text.encode())
        return results


def rivals_in(listing: Listing) -> dict[str, list[BundlePlace]]:
    """Group the bundles of a key's listing by variant, each group newest first and cut to `MAX_RIVALS`."""
    rivals: dict[str, list[BundlePlace]] = {}
    for name in sorted(listing, key=lambda name: -(listing[name].modified or 0)):
        place = parse_manifest_name(name)
        if place is not None and listing[name].size <= MAX_MANIFEST_BYTES:
            rivals.setdefault(place.variant, []).append(place)
    return {variant: places[:MAX_RIVALS] for variant, places in rivals.items()}


def _newest(
    kind: str, rivals: dict[str, list[BundlePlace]], listing: Listing, variants: Collection[str] | None, count: int
) -> dict[str, list[BundlePlace]]:
    """Keep the wanted variants, of those the newest `count`.

    Variants that are made of a time sort by name, newest first; when their objects were written says nothing in a
    bucket that was copied.
    """
    wanted = sorted(variant for variant in rivals if variants is None or variant in variants)
    if kind in CHANGING:
        wanted.sort(key=lambda variant: not variant.isdecimal())
    else:
        wanted.sort(key=lambda variant: -(listing[rivals[variant][0].manifest].modified or 0))
    return {variant: rivals[variant] for variant in wanted[:count]}


def _object_name(place: BundlePlace, member: str) -> str:
    """Return the single object that holds a member of the pack: kernels are shared, payloads lie with their bundle."""
    return member if member.startswith("kernels/") else place.prefix + member
