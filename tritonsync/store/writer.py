"""The store: bundles into a bucket and, being a `Reader`, out of it.

A save writes the pack, then the manifest (now the bundle exists and can be loaded), then what makes it loadable without
its pack. Names derive from content, so no write ever changes what a reader sees.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import time
from collections.abc import Collection, Mapping
from typing import Literal

from tritonsync import times
from tritonsync.errors import FormatError, PackError, RemoteError, UnfitObjectError
from tritonsync.format import manifest as manifests
from tritonsync.format import pack as packs
from tritonsync.format.bundle import CHANGING, Bundle, Digest, Payload
from tritonsync.format.key_parts import KEY_PARTS
from tritonsync.format.layout import AUTOTUNE, BundlePlace, kernel_prefix, key_prefix
from tritonsync.format.manifest import MAX_GENERATION, MAX_MANIFEST_BYTES, Environment, Manifest
from tritonsync.format.ranks import Rank
from tritonsync.format.signing import Signer, TrustPolicy
from tritonsync.remote.bucket import Bucket, ObjectInfo
from tritonsync.remote.threads import in_parallel
from tritonsync.remote.waiting import Deadline
from tritonsync.store.candidates import Candidates, Listing, check_time, newest_variants, rivals_in
from tritonsync.store.reader import Found, Loaded, Reader, united

__all__ = ["Found", "Loaded", "Published", "Store"]

log = logging.getLogger(__name__)

#: Objects of one bundle that are written at a time.
UPLOADS_AT_ONCE = 16
#: What the variants of kinds that change count down from, in unix seconds.
_LAST_SECOND = 9_999_999_999


class _LooksSpoiledError(Exception):
    """Something that a writer cannot replace looks spoiled."""


@dataclasses.dataclass(frozen=True)
class Published:
    """What a save did.

    Attributes:
        place: where the bundle lies that now serves the variant; None if it was given up.
        created: whether it was not there, or not whole, before.
        packed: what its pack holds, for `complete`; None if it is another writer's and was not read.
    """

    place: BundlePlace | None
    created: bool
    packed: Bundle | None = None


class Store(Reader):
    """Saves and loads bundles.

    Args:
        bucket: where they are.
        environment: what manifests say of the place they were made at.
        signer: signs what is saved.
        trust: which signatures are asked for when loading; everything is trusted by default.
        cpu: `machine:isa` of this host; a bundle that requires another one is not offered.
        rank: of this process in its job; a bundle that belongs to another one is not offered.

    Attributes:
        written: prefixes of the bundles that were written by this store, and by those it was made of for this host.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        environment: Environment | None = None,
        signer: Signer | None = None,
        trust: TrustPolicy | None = None,
        cpu: str | None = None,
        rank: Rank | None = None,
    ) -> None:
        super().__init__(bucket, trust=trust, cpu=cpu, rank=rank)
        self.environment = environment or Environment()
        self.signer = signer
        # A writer that signs takes only what it signed itself, or was told to trust, for published: an unsigned bundle
        # must not keep the signed one out.
        self._own = self.trust if signer is None else self.trust.including(signer)
        self.written: set[str] = set()

    def on_host(self, *, cpu: str | None, rank: Rank | None = None, environment: Environment | None = None) -> Store:
        """Return the same store for a process of this rank on such a CPU, whose manifests state this environment."""
        store = Store(
            self.bucket,
            environment=environment or self.environment,
            signer=self.signer,
            trust=self.trust,
            cpu=cpu,
            rank=rank,
        )
        store.written = self.written
        return store

    def own(self) -> Reader:
        """Return a reader that takes only what this writer takes for published, so that it signs nothing of strangers.

        For what is to be published together with what is there.
        """
        return Reader(self.bucket, trust=self._own, cpu=self.cpu, rank=self.rank)

    def publish(
        self,
        bundle: Bundle,
        *,
        after: int = -1,
        reread: bool = False,
        inline: Collection[str] = (),
        timeout: float | None = None,
    ) -> Published:
        """Write pack and manifest, unless the variant is there in good order; afterwards the bundle can be loaded.

        Args:
            bundle: what to save.
            after: the highest generation that proved unusable though intact; only a higher one counts as good order.
            reread: fetch the pack that is there and check its bytes, instead of its size alone.
            inline: payloads that stand in the manifest instead of the pack; UTF-8 text.
            timeout: seconds for all of it.

        Raises:
            RemoteError: the bucket could not be asked, or refused the write.
        """
        deadline = Deadline(timeout)
        # Who looks for the nearest key reads manifests only.
        inline = frozenset(inline) | {KEY_PARTS}
        try:
            return self._publish(bundle, after, reread, inline, deadline)
        except _LooksSpoiledError:
            # A server without create-only writes shows half an object while another writer replaces it by its equal.
            time.sleep(times.SECOND_LOOK_S)
            return self._publish(bundle, after, reread, inline, deadline, is_sure=True)

    def _publish(
        self,
        bundle: Bundle,
        after: int,
        reread: bool,
        inline: frozenset[str],
        deadline: Deadline,
        *,
        is_sure: bool = False,
    ) -> Published:
        listing: Listing = self.bucket.list(key_prefix(bundle.kind, bundle.key), timeout=deadline.left)
        seen, listing = self._manifests(bundle.kind, bundle.key, bundle.variant, listing, deadline)
        spoiled: set[str] = set()
        for place, found in seen.items():
            state, packed = ("bad", None) if found is None else self._pack(found, place, listing, reread, deadline)
            if found is None or state == "bad":
                spoiled.add(place.bundle_id)
            elif state == "good" and found.generation > after:
                return Published(place, created=False, packed=packed)
        if spoiled and not is_sure:
            raise _LooksSpoiledError
        return self._write(bundle, after + 1, listing, spoiled, inline, reread, deadline, is_sure=is_sure)

    def holds(self, bundle: Bundle, *, timeout: float | None = None) -> bool:
        """Return whether the bucket has a bundle, as far as manifests tell: nothing is written, and no pack read.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        changing = bundle.kind in CHANGING
        variants = None if changing else (bundle.variant,)
        found = self.load(bundle.kind, bundle.key, variants=variants, newest=1, have=lambda _: True, timeout=timeout)
        return any(not changing or _is_of(manifest, bundle) for manifest in found.present)

    def complete(self, published: Published, *, timeout: float | None = None) -> frozenset[str]:
        """Write payload objects and kernel folders, so that the bundle can be loaded without its pack.

        Folders and payloads that a listing shows whole are skipped. An object of the wrong size is left where it is:
        the role of a writer may not replace it, and the pack holds the same bytes.

        Returns:
            the names of the kernel folders that were not whole before.

        Raises:
            RemoteError: the bucket could not be asked, or refused the write.
        """
        place, packed = published.place, published.packed
        if place is None or packed is None:
            return frozenset()
        deadline = Deadline(timeout)
        folders = {kernel_prefix(kernel.hash, kernel.content_id): kernel.files for kernel in packed.kernels}
        wanted = {folder + file.name: file.payload for folder, files in folders.items() for file in files}
        wanted.update({place.payload(payload.name): payload.data for payload in packed.payloads})
        prefixes = (place.prefix, *folders)
        listings = in_parallel(lambda p: self.bucket.list(p, timeout=deadline.left), prefixes, UPLOADS_AT_ONCE)
        there = {name: info.size for listing in listings.values() for name, info in listing.items()}
        for name in wanted.keys() & there.keys():
            if there[name] != len(wanted[name]):
                log.warning("%s has %d bytes instead of %d; left as it is", name, there[name], len(wanted[name]))
        missing = [name for name in wanted if name not in there]
        in_parallel(
            lambda name: self.bucket.create(name, wanted[name], timeout=deadline.left), missing, UPLOADS_AT_ONCE
        )
        return frozenset(name.rpartition("/")[0] for name in missing if name.startswith("kernels/"))

    def publish_newest(
        self,
        bundle: Bundle,
        *,
        anew: bool = False,
        reread: bool = False,
        inline: Collection[str] = (),
        timeout: float | None = None,
    ) -> Published:
        """Publish a bundle of a kind that changes before its predecessors in a listing.

        Not if it equals the newest, unless it is to be written `anew`.

        The variant of the bundle is replaced by `9999999999 - unix time`, zero-padded.

        Raises:
            RemoteError: the bucket could not be asked, or refused the write.
        """
        deadline = Deadline(timeout)
        listing = self.bucket.list(key_prefix(bundle.kind, bundle.key), timeout=deadline.left)
        number = int(_LAST_SECOND - time.time())
        groups = newest_variants(bundle.kind, rivals_in(bundle.kind, listing), listing)
        timed = {variant: places for variant, places in groups.items() if variant.isdecimal()}
        search = Candidates(self.bucket, self._own, bundle.kind, bundle.key, listing, deadline)
        # The newest that counts: one that nobody signed could claim to be the newest for ever.
        accepted = search.accepted(timed)
        _raise_first(search.failed)
        for newest, there in list(accepted.items())[:1]:
            if not anew and any(_is_of(manifest, bundle) for manifest, _ in there):
                same = dataclasses.replace(bundle, variant=newest)
                return self.publish(same, reread=reread, inline=inline, timeout=deadline.left)
            number = min(number, int(newest) - 1)
        while number > 0 and f"{number:010d}" in timed:
            number -= 1  # what lies there, damaged or of another writer, cannot be replaced
        bundle = dataclasses.replace(bundle, variant=f"{max(number, 0):010d}")
        return self._write(bundle, 0, listing, (), frozenset(inline), False, deadline)

    def publish_autotune(
        self, kind: str, key: str, results: Mapping[str, bytes], *, timeout: float | None = None
    ) -> Published:
        """Publish the autotune results of a graph that are not there yet, united with those that are.

        What is there wins: every worker that starts cold measures other times, and one list is enough for all of them.

        Args:
            kind: of the value that holds the graph.
            key: of that value.
            results: names, as `local/autotune.py` gives them, and contents (JSON text).
            timeout: seconds for all of it.

        Raises:
            RemoteError: the bucket could not be asked, or refused the write.
        """
        deadline = Deadline(timeout)
        listing: Listing = self.bucket.list(f"{key_prefix(kind, key)}{AUTOTUNE}/", timeout=deadline.left)
        seen, listing = self._manifests(kind, key, AUTOTUNE, listing, deadline)
        # What is published wins over what was timed here, or every cold worker would leave a list of its own.
        union = {**results, **united(manifest for manifest in seen.values() if manifest is not None)}
        for place, manifest in seen.items():
            if manifest is not None and (manifest.inline or {}).keys() == union.keys():
                return Published(place, created=False)
        bundle = Bundle(
            kind=kind,
            key=key,
            variant=AUTOTUNE,
            payloads=tuple(Payload(name, data) for name, data in union.items()),
        )
        spoiled = {place.bundle_id for place, manifest in seen.items() if manifest is None}
        return self._write(bundle, 0, listing, spoiled, frozenset(union), False, deadline)

    def _manifests(
        self, kind: str, key: str, variant: str, listing: Listing, deadline: Deadline
    ) -> tuple[Mapping[BundlePlace, Manifest | None], Listing]:
        """Fetch the manifests of a variant; return them, None for a spoiled one, and the listing without lost ones.

        One may be lost between the listing and the request: a server that ignores conditions replaces it, or somebody
        has deleted it. It is not spoiled, only absent, and so is one that this identity may not read.
        """
        search = Candidates(self.bucket, self._own, kind, key, listing, deadline)
        search.accepted({variant: rivals_in(kind, listing).get(variant, [])})
        _raise_first(search.failed)
        return search.seen, {name: info for name, info in listing.items() if name not in search.lost}

    def _pack(
        self, manifest: Manifest, place: BundlePlace, listing: Listing, reread: bool, deadline: Deadline
    ) -> tuple[Literal["good", "absent", "bad"], Bundle | None]:
        """Tell the state of a bundle's pack, and what it holds where it was read again."""
        if manifest.pack is None:
            return "good", None
        if place.pack not in listing:
            return "absent", None
        if listing[place.pack].size != manifest.pack.size:
            return "bad", None
        if not reread:
            return "good", None
        try:
            data = self._bytes(place.pack, manifest.pack.size, deadline.left)
            if data is None:
                return "absent", None  # since it was listed, or for this identity
            bundle = packs.decode(data, manifest, functools.partial(check_time, deadline, place.prefix))
            return "good", _without(bundle, manifest.inline or ())
        except (PackError, UnfitObjectError) as exc:
            log.warning("%s is damaged: %s", place.pack, exc)
            return "bad", None

    def _write(
        self,
        bundle: Bundle,
        generation: int,
        listing: Listing,
        spoiled: Collection[str],
        inline: frozenset[str],
        reread: bool,
        deadline: Deadline,
        *,
        is_sure: bool = True,
    ) -> Published:
        """Write a bundle under the first generation whose names hold nothing spoiled.

        Raises:
            FormatError: its manifest is larger than what readers take.
            _LooksSpoiledError: unless `is_sure`, in place of the first generation that is passed over.
        """
        packed = _without(bundle, inline)
        pack = packs.encode(packed) if packed.kernels or packed.payloads else None
        digest = None if pack is None else Digest(size=len(pack), sha256=hashlib.sha256(pack).hexdigest())
        for number in range(generation, MAX_GENERATION + 1):
            manifest = manifests.describe(
                bundle,
                created=manifests.time_ago(0),
                environment=self.environment,
                pack=digest,
                generation=number,
                inline=inline,
            )
            if self.signer is not None:
                manifest = self.signer.sign(manifest)
            place, encoded = manifest.place, manifests.encode(manifest)
            if len(encoded) > MAX_MANIFEST_BYTES:
                raise FormatError(f"{place.manifest}: {len(encoded)} bytes, and readers take {MAX_MANIFEST_BYTES}")
            state, _ = self._pack(manifest, place, listing, reread, deadline)
            if place.pack in listing and place.manifest not in listing and _may_go(listing[place.pack]):
                continue
            if place.bundle_id in spoiled or state == "bad":
                if not is_sure:
                    raise _LooksSpoiledError
                continue  # what lies there cannot be replaced by the role of a writer
            created = False
            if pack is not None and state == "absent":
                created = self.bucket.create(place.pack, pack, timeout=deadline.left)
            if place.manifest not in listing:
                created |= self.bucket.create(place.manifest, encoded, timeout=deadline.left)
            if created:
                self.written.add(place.prefix)
            return Published(place, created, packed)
        log.warning(
            "%s: %d generations of it proved unusable; nothing more is published for it",
            f"{bundle.kind}/{bundle.key}/{bundle.variant}",
            MAX_GENERATION + 1,
        )
        return Published(None, created=False)


def _may_go(pack: ObjectInfo) -> bool:
    """Whether a pack that has no manifest may be one that a collector of garbage takes away at this moment.

    It does so long after it was written; the one of a writer that runs beside this one is young.
    """
    return time.time() - (pack.modified or 0.0) > times.LONE_PACK_S


def _raise_first(failed: Mapping[str, RemoteError]) -> None:
    for error in failed.values():
        raise error


def _is_of(manifest: Manifest, bundle: Bundle) -> bool:
    """Whether the manifest describes the content of this bundle."""
    kernels = [(kernel.hash, kernel.device, kernel.content_id) for kernel in bundle.kernels]
    payloads = [(payload.name, payload.sha256) for payload in bundle.payloads]
    return kernels == [(kernel.hash, kernel.device, kernel.content_id) for kernel in manifest.kernels] and (
        payloads == [(payload.name, payload.sha256) for payload in manifest.payloads]
    )


def _without(bundle: Bundle, inline: Collection[str]) -> Bundle:
    """Return the bundle as its pack holds it."""
    return dataclasses.replace(bundle, payloads=tuple(p for p in bundle.payloads if p.name not in inline))
