"""Bundles out of a bucket.

A load costs one listing, then manifest and pack together. The reader composes the format and the bucket and knows no
cache of this host.

What is damaged, signed by a stranger or of a newer format is never an exception here: it is a miss with one warning
that names the object, and `Found.damaged` says where a writer should look for itself.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from tritonsync.errors import AccessDeniedError, FormatError, PackError, RemoteError, UnfitObjectError
from tritonsync.format import pack as packs
from tritonsync.format.bundle import FOLDER, Bundle
from tritonsync.format.layout import AUTOTUNE, BundlePlace, key_prefix
from tritonsync.format.manifest import MAX_CONTENT_BYTES, MAX_MANIFEST_BYTES, Manifest
from tritonsync.format.ranks import Rank, fulfilled, is_variant_of_another
from tritonsync.format.signing import TrustPolicy
from tritonsync.format.start import MAX_START_BYTES
from tritonsync.remote.bucket import Answer, Bucket
from tritonsync.remote.waiting import Deadline
from tritonsync.store.candidates import (
    MAX_VARIANTS,
    Candidates,
    Groups,
    Listing,
    Source,
    check_time,
    fullest_first,
    granted,
    newest_variants,
    rivals_in,
)
from tritonsync.store.copies import Copies, copies_in, start_in

__all__ = ["Found", "Loaded", "Reader", "united"]

log = logging.getLogger(__name__)

#: Bytes of packs that are read together with their manifests; what is above waits for the manifest to promise its size.
MAX_UNPROMISED_BYTES = 64 * 1024 * 1024
#: Content that one load may promise, of all its bundles: as much as a single one.
MAX_LOAD_BYTES = MAX_CONTENT_BYTES


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
        copies: of what a workload lists, where they were asked for and are there.
        copied: whether this came from such copies, and the bucket was not asked.
    """

    bundles: tuple[Loaded, ...] = ()
    present: tuple[Manifest, ...] = ()
    autotune: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    damaged: frozenset[str] = frozenset()
    copies: Copies | None = None
    copied: bool = False


class Reader:
    """Loads bundles.

    Args:
        bucket: where they are.
        trust: which signatures are asked for; everything is trusted by default.
        cpu: `machine:isa` of this host; a bundle that requires another one is not offered. None: this host takes none
            that requires any.
        rank: of this process in its job; what belongs to another one is not offered. None: nor is what belongs to any.
        copies: read instead of the bucket.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        trust: TrustPolicy | None = None,
        cpu: str | None = None,
        rank: Rank | None = None,
        copies: Copies | None = None,
    ) -> None:
        self.bucket = bucket
        self._source: Source = bucket if copies is None else copies
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
        copies: bool = False,
        timeout: float | None = None,
    ) -> Found:
        """Fetch the best bundle of each variant of a key, and the autotune results that lie under it.

        Args:
            kind: the cache the key belongs to.
            key: the key there.
            variants: only these, if given.
            newest: at most so many variants.
            have: asked with each manifest; where it says True the pack is not read. Costs one more round trip.
            copies: of a workload, whether to fetch the copies of what it lists along with its manifest.
            timeout: seconds for all of it.

        Raises:
            RemoteError: the bucket could not be asked. What it held and was unfit is a miss.
        """
        deadline = Deadline(timeout)
        listing = self._source.list(key_prefix(kind, key), timeout=deadline.left)
        # The other ranks of a job are told by the names of their variants, so that they take none of the places below.
        rivals = {
            variant: places
            for variant, places in rivals_in(kind, listing).items()
            if not is_variant_of_another(variant, self.rank)
        }
        groups = newest_variants(kind, rivals, listing, variants)
        along = _small_packs(groups, newest, listing) if have is None else {}
        start = start_in(groups, listing) if copies else None
        if start is not None:
            along[start] = listing[start].size
        search = Candidates(self._source, self.trust, kind, key, listing, deadline)
        candidates = search.accepted(
            {AUTOTUNE: fullest_first(rivals.get(AUTOTUNE, []), listing), **groups},
            newest,
            usable=self._is_for_this_host,
            first={AUTOTUNE: 1},
            along=along,
        )
        autotune = [manifest for manifest, _ in candidates.pop(AUTOTUNE, [])]
        failed = [error for variant, error in search.failed.items() if variant != AUTOTUNE]
        bundles: list[Loaded] = []
        present: list[Manifest] = []
        damaged: set[str] = set()
        for variant, rivals_of_variant in candidates.items():
            if len(bundles) + len(present) == newest:
                break
            left = MAX_LOAD_BYTES - sum(loaded.manifest.content_size for loaded in bundles)
            try:
                found = self._load_variant(rivals_of_variant, search.along, left, have, deadline)
            except RemoteError as exc:  # one variant's trouble is not that of the others
                log.info("%s/%s: variant %s is left out: %s", kind, key, variant, exc)
                failed.append(exc)
                continue
            bundles += found.bundles
            present += found.present
            damaged |= found.damaged
        if failed and not bundles and not present:
            raise failed[0]
        return Found(
            tuple(bundles),
            tuple(present),
            united(autotune[:1]),
            frozenset(damaged),
            None if start is None else copies_in(search.along.get(start), start),
        )

    def copies_of(self, workload: Manifest, *, timeout: float | None = None) -> Copies | None:
        """Fetch the copies of what a workload lists; None where there are none that can be used."""
        name = workload.place.start
        return copies_in(self._source.get_many({name: MAX_START_BYTES}, timeout=timeout)[name], name)

    def load_copied(
        self,
        copies: Copies | None,
        kind: str,
        key: str,
        *,
        variants: Collection[str] | None = None,
        newest: int = MAX_VARIANTS,
        have: Callable[[Manifest], bool] | None = None,
        timeout: float | None = None,
    ) -> Found:
        """Do what `load` does, of copies where these have something that is of use here.

        Raises:
            RemoteError: the bucket was asked, and could not be.
        """
        if copies is not None and copies.hold(kind, key):
            reader = Reader(self.bucket, trust=self.trust, cpu=self.cpu, rank=self.rank, copies=copies)
            found = reader.load(kind, key, variants=variants, newest=newest, have=have, timeout=timeout)
            if found.bundles or found.present:
                return dataclasses.replace(found, copied=True)
        return self.load(kind, key, variants=variants, newest=newest, have=have, timeout=timeout)

    def _load_variant(
        self,
        rivals: Iterable[tuple[Manifest, BundlePlace]],
        fetched: Mapping[str, Answer],
        left: int,
        have: Callable[[Manifest], bool] | None,
        deadline: Deadline,
    ) -> Found:
        """Load the best bundle of one variant, of at most `left` bytes, unless it is here, or good but not for us."""
        damaged: frozenset[str] = frozenset()
        for manifest, place in rivals:
            check_time(deadline, place.prefix)
            if not self._is_for_this_host(manifest):
                return Found()
            if have is not None and have(manifest):
                return Found(present=(manifest,))
            if manifest.content_size > left:
                log.warning("%s is left out: more than %d bytes in one load", place.prefix, MAX_LOAD_BYTES)
                continue
            try:
                bundle = self._content(manifest, place, fetched.get(place.pack), deadline)
            except PackError:
                damaged = frozenset({place.variant})
                continue
            if bundle is not None:
                return Found(bundles=(Loaded(bundle, manifest, place),))
        return Found(damaged=damaged)

    def manifest(self, place: BundlePlace, *, timeout: float | None = None) -> Manifest | None:
        """Fetch one manifest; None where it is missing, refused or unfit."""
        try:
            data = self._bytes(place.manifest, MAX_MANIFEST_BYTES, timeout)
            return None if data is None else self.trust.accept(data, place)
        except FormatError as exc:
            log.warning("left out of the cache: %s", exc)
            return None

    def load_content(self, manifest: Manifest, *, timeout: float | None = None) -> Bundle | None:
        """Load the content that a manifest promises: from the pack, else from payloads and kernel folders.

        Returns:
            None, with a warning, where that is missing or damaged.
        """
        try:
            return self._content(manifest, manifest.place, None, Deadline(timeout))
        except PackError:
            return None

    def _is_for_this_host(self, manifest: Manifest) -> bool:
        return manifest.environment.requires in fulfilled(self.cpu, self.rank)

    def _content(self, found: Manifest, place: BundlePlace, pack: Answer, deadline: Deadline) -> Bundle | None:
        """Return the bundle from its pack, or from single objects; None, with a warning, where both are missing.

        Raises:
            PackError: what lies there is damaged and nothing makes up for it; the warning is given.
        """
        is_missing = False
        if found.pack is not None:
            try:
                packed = self._pack_bytes(found.pack.size, place, pack, deadline)
                if packed is not None:
                    return packs.decode(packed, found, functools.partial(check_time, deadline, place.prefix))
                is_missing = True
                log.warning("%s is missing; reading the bundle's single objects instead", place.pack)
            except (PackError, UnfitObjectError) as exc:
                log.warning("%s is damaged (%s); reading the bundle's single objects instead", place.pack, exc)
        # A folder is in its pack alone.
        parts = () if found.kind == FOLDER else found.members()
        entries = {member: (_object_name(place, member), entry.size) for member, entry in parts}
        objects = self._source.get_many(dict(entries.values()), timeout=deadline.left)
        members: dict[str, bytes] = {}
        try:
            for member, (name, _) in entries.items():
                data = granted(objects[name])
                if data is not None:
                    members[member] = data
            return packs.assemble(found, members)
        except UnfitObjectError as exc:
            log.warning("%s cannot be loaded: %s", place.prefix, exc)
            raise PackError(str(exc)) from exc
        except PackError as exc:
            log.warning("%s cannot be loaded: %s", place.prefix, exc)
            if not is_missing:
                raise
            return None  # a server that is replacing the pack, or one that lost it

    def _pack_bytes(self, size: int, place: BundlePlace, pack: Answer, deadline: Deadline) -> bytes | None:
        """Return the pack that came with the manifest, or ask for it, now that its size is promised."""
        if isinstance(pack, (bytes, UnfitObjectError, AccessDeniedError)):
            return granted(pack)
        return self._bytes(place.pack, size, deadline.left)

    def _bytes(self, name: str, limit: int, timeout: float | None) -> bytes | None:
        return granted(self._source.get_many({name: limit}, timeout=timeout)[name])


def _small_packs(groups: Groups, newest: int, listing: Listing) -> dict[str, int]:
    """Return names and sizes of packs to be read together with their manifests: of variants that have no rivals."""
    sizes: dict[str, int] = {}
    left = MAX_UNPROMISED_BYTES
    for places in list(groups.values())[:newest]:
        pack = listing.get(places[0].pack)
        if len(places) == 1 and pack is not None and pack.size <= left:
            sizes[places[0].pack] = pack.size
            left -= pack.size
    return sizes


def united(manifests: Iterable[Manifest]) -> dict[str, bytes]:
    """Unite the autotune results of a key; the first one wins."""
    results: dict[str, bytes] = {}
    for manifest in manifests:
        for name, text in (manifest.inline or {}).items():
            results.setdefault(name, text.encode())
    return results


def _object_name(place: BundlePlace, member: str) -> str:
    """Return the single object that holds a member of the pack: kernels are shared, payloads lie with their bundle."""
    return member if member.startswith("kernels/") else place.prefix + member
