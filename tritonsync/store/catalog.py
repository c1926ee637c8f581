"""What a bucket holds, for people: its bundles, found by key, by the beginning of one, by workload or by kernel."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from tritonsync.errors import (
    FormatError,
    ManifestError,
    NotInBucketError,
    RemoteError,
    UnfitObjectError,
    UnknownWorkloadError,
)
from tritonsync.format.bundle import GRAPHS, KINDS, is_variant
from tritonsync.format.layout import AUTOTUNE, BundlePlace, parse_manifest_name, stored_key
from tritonsync.format.manifest import MAX_MANIFEST_BYTES, Environment, Manifest
from tritonsync.format.signing import TrustPolicy
from tritonsync.format.workload import LIST, workload_of_manifest
from tritonsync.remote.bucket import Bucket, ObjectInfo
from tritonsync.remote.threads import in_parallel

__all__ = ["Catalog", "Entry", "KernelPlace", "Objects", "batches"]

#: Objects fetched together at most, and their bytes, where one object does not have more by itself.
BATCH = 256
BATCH_BYTES = 16 * 1024 * 1024
#: Prefixes listed at a time.
LISTINGS_AT_ONCE = 16
#: Shown of what an ambiguous name could mean.
_SHOWN = 5

K = TypeVar("K")

Objects = Mapping[str, ObjectInfo]
UNKNOWN = Environment()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One bundle, in one line.

    Attributes:
        place: where it lies.
        key: the whole key; of an unusable bundle, as it stands in object names.
        modified: seconds since 1970, as the bucket says.
        size: bytes of its own objects in the bucket; the kernel folders, which bundles share, are not in it.
        generation: see the manifest.
        created: when it was made, as its manifest says.
        kernels: how many it holds.
        kernel_bytes: their size, decompressed.
        environment: where it was made.
        workloads: names of the workloads that list it; of a workload, nothing.
        signed_by: id of the key that signed it.
        problem: why it cannot be used; None if it can.
    """

    place: BundlePlace
    key: str
    modified: float | None
    size: int
    generation: int = 0
    created: str = ""
    kernels: int = 0
    kernel_bytes: int = 0
    environment: Environment = UNKNOWN
    workloads: tuple[str, ...] = ()
    signed_by: str | None = None
    problem: str | None = None


@dataclasses.dataclass(frozen=True)
class KernelPlace:
    """One stored build of a kernel.

    Attributes:
        hash: the kernel hash.
        content_id: names the build.
        files: name and size in bytes.
        bundles: prefixes of the bundles that hold it.
    """

    hash: str
    content_id: str
    files: tuple[tuple[str, int], ...]
    bundles: tuple[str, ...]


class Catalog:
    """A bucket's bundles at one moment: one listing, then manifests as they are asked for.

    Args:
        bucket: where they are.
        trust: whose signatures count; everything is trusted by default.
        below: prefixes that are listed.

    Raises:
        RemoteError: the bucket could not be asked.
    """

    def __init__(
        self, bucket: Bucket, *, trust: TrustPolicy | None = None, below: Collection[str] = ("bundles/",)
    ) -> None:
        self.bucket = bucket
        self.trust = trust or TrustPolicy()
        self.objects = _listed(bucket, below)
        self.places = places_in(self.objects)

    @functools.cached_property
    def kernel_objects(self) -> Objects:
        """The objects of the kernel folders, which bundles share; listed when they are first asked for."""
        return self.bucket.list("kernels/")

    def entries(self, *, kind: str | None = None, newest: int | None = None) -> Iterator[Entry]:
        """Yield the bundles, newest first.

        Args:
            kind: only those of this kind.
            newest: at most so many.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        sizes = self._sizes()
        wanted = [place for place in self.places if kind is None or place.kind == kind]
        for place, found in self.manifests(wanted[:newest]):
            info = self.objects[place.manifest]
            entry = Entry(place, place.key, info.modified, sizes[place.prefix])
            if isinstance(found, FormatError):
                yield dataclasses.replace(entry, problem=str(found))
                continue
            yield dataclasses.replace(
                entry,
                key=found.key,
                generation=found.generation,
                created=found.created,
                kernels=len(found.kernels),
                kernel_bytes=sum(kernel.size for kernel in found.kernels),
                environment=found.environment,
                workloads=self.workloads.get((found.kind, found.key, found.variant), ()),
                signed_by=found.signature.key_id if found.signature else None,
            )

    def find(self, name: str) -> tuple[BundlePlace, ...]:
        """Return the bundles that a name means, newest first; empty if it means none.

        Args:
            name: a key, the beginning of exactly one key, a workload's name, or any of `<kind>/<key>`,
                `<kind>/<key>/<variant>` and `<kind>/<key>/<variant>/<bundle id>`.

        Raises:
            NotInBucketError: it means more than one key.
        """
        parts = name.removeprefix("bundles/").strip("/").split("/")
        if parts[0] in KINDS and 2 <= len(parts) <= 4:
            stored = stored_key(parts[0], parts[1])
            found = [place for place in self.places if (place.kind, place.key) == (parts[0], stored)]
            found = [place for place in found if [place.variant, place.bundle_id][: len(parts) - 2] == parts[2:]]
        else:
            found = self._by_key(name)
        if len({place.key for place in found}) > 1:
            keys = sorted({f"{place.kind}/{place.key}" for place in found})
            more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            raise NotInBucketError(
                f"{name!r} could be {', '.join(keys[:_SHOWN])}{more}", url=self.bucket.url, hint="give more of the key"
            )
        return tuple(found)

    def kernels(self, name: str) -> tuple[KernelPlace, ...]:
        """Return the stored builds of a kernel, by its hash or the beginning of it.

        Raises:
            RemoteError: the bucket could not be asked.
            NotInBucketError: it is the beginning of none, or of more than one.
        """
        files: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for path, info in self.kernel_objects.items():
            parts = path.split("/")
            if len(parts) == 4 and parts[1].startswith(name):
                files.setdefault((parts[1], parts[2]), []).append((parts[3], info.size))
        users: dict[tuple[str, str], list[str]] = {}
        for place, found in self.manifests(self.places):
            for kernel in () if isinstance(found, FormatError) else found.kernels:
                if kernel.hash.startswith(name):
                    users.setdefault((kernel.hash, kernel.content_id), []).append(place.prefix)
                    files.setdefault((kernel.hash, kernel.content_id), [])
        hashes = sorted({kernel_hash for kernel_hash, _ in files})
        if not hashes:
            raise self.nothing_called(name)
        if len(hashes) > 1:
            raise NotInBucketError(
                f"{name!r} could be kernel {', '.join(hashes[:_SHOWN])}",
                url=self.bucket.url,
                hint="give more of the hash",
            )
        return tuple(
            KernelPlace(*build, files=tuple(sorted(files[build])), bundles=tuple(sorted(set(users.get(build, ())))))
            for build in sorted(files)
        )

    def nothing_called(self, name: str) -> NotInBucketError:
        """Return the error that says so."""
        return NotInBucketError(
            f"{self.bucket.url} holds nothing called {name!r}",
            url=self.bucket.url,
            hint="`tritonsync ls` lists what it holds",
        )

    def check_workload(self, name: str) -> None:
        """See that there is a list of this workload, be it one that can be used or not.

        Raises:
            UnknownWorkloadError: there is none.
        """
        if stored_key("workload", name) not in {place.key for place in self.places if place.kind == "workload"}:
            raise UnknownWorkloadError(
                f"{self.bucket.url} holds no workload named {name!r}",
                url=self.bucket.url,
                workload=name,
                hint="`tritonsync du` lists those it holds",
            )

    def manifests(
        self, places: Iterable[BundlePlace], objects: Objects | None = None
    ) -> Iterator[tuple[BundlePlace, Manifest | FormatError]]:
        """Fetch manifests, some at a time; one that cannot be used comes as its error, a missing one not at all.

        Args:
            places: of their bundles.
            objects: a listing that holds them; None: the catalog's own.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        objects = self.objects if objects is None else objects
        of_name: dict[str, BundlePlace] = {}
        for place in places:
            name, size = place.manifest, objects[place.manifest].size
            if size <= MAX_MANIFEST_BYTES:
                of_name[name] = place
            else:
                yield place, ManifestError(f"{name}: has {size} bytes; a manifest has less", object_name=name)
        for batch in batches({name: objects[name].size for name in of_name}):
            fetched = self.bucket.get_many(batch)
            for name in batch:
                data = fetched.pop(name)
                if isinstance(data, RemoteError):
                    raise data
                if data is None:
                    continue
                try:
                    if isinstance(data, UnfitObjectError):
                        raise data
                    found: Manifest | FormatError = self.trust.accept(data, of_name[name])
                except FormatError as exc:
                    found = exc
                yield of_name[name], found

    def _by_key(self, name: str) -> list[BundlePlace]:
        exact = [place for place in self.places if place.key == stored_key(place.kind, name)]
        return exact or [place for place in self.places if place.key.startswith(name)]

    def size(self, kind: str | None = None) -> int:
        """Return the bytes of all bundles, or of those of one kind, without the kernel folders that they share."""
        return sum(info.size for name, info in self.objects.items() if kind in (None, name.split("/")[1]))

    def _sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for name, info in self.objects.items():
            prefix = "/".join(name.split("/")[:5]) + "/"
            sizes[prefix] = sizes.get(prefix, 0) + info.size
        return sizes

    @functools.cached_property
    def workloads(self) -> Mapping[tuple[str, str, str], tuple[str, ...]]:
        """Kind, key and variant of a bundle -> the workloads that list it, in any of their lists that can be read.

        Autotune results are in no list: they belong to the workloads of their graph.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        listed: dict[tuple[str, str, str], set[str]] = {}
        lists = [place for place in self.places if place.kind == "workload"]
        for _, found in self.manifests(lists):
            if isinstance(found, FormatError) or LIST not in (found.inline or ()):
                continue
            with contextlib.suppress(FormatError):
                for entry in workload_of_manifest(found).entries:
                    variants = (entry.variant, AUTOTUNE) if entry.kind in GRAPHS else (entry.variant,)
                    for variant in variants:
                        listed.setdefault((entry.kind, entry.key, variant), set()).add(found.key)
        return {bundle: tuple(sorted(names)) for bundle, names in listed.items()}


def _listed(bucket: Bucket, below: Collection[str]) -> dict[str, ObjectInfo]:
    listings = in_parallel(bucket.list, below, LISTINGS_AT_ONCE)
    return {name: info for listing in listings.values() for name, info in listing.items()}


def places_in(objects: Objects, kinds: Collection[str] = KINDS) -> list[BundlePlace]:
    """Return the bundles of a listing, newest first."""
    found = [(info.modified or 0.0, name) for name, info in objects.items()]
    places = (parse_manifest_name(name) for _, name in sorted(found, key=lambda pair: (-pair[0], pair[1])))
    return [p for p in places if p is not None and p.kind in kinds and is_variant(p.kind, p.variant)]


def batches(sizes: Mapping[K, int], count: int = BATCH) -> Iterator[dict[K, int]]:
    """Split objects, with their sizes, into parts of at most `count` that are fetched together."""
    batch: dict[K, int] = {}
    for name, size in sizes.items():
        if batch and (len(batch) == count or sum(batch.values()) + size > BATCH_BYTES):
            yield batch
            batch = {}
        batch[name] = size
    if batch:
        yield batch
