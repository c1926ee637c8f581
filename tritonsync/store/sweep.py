"""Taking away what may go, beside live readers and writers (what that is: retention.py).

Of each bundle the manifest goes first, so that no reader finds half of it; one that could not be read before stays.
Then the lists are read again: where one has come meanwhile that names the bundle, or nobody can tell, its manifest is
put back, and nothing was lost; else the rest of its objects goes, the pack last. A writer looks again after it has
published its list (`missing_entries`), so whichever of the two comes last notices the other. It never builds on a pack
that lies there alone for long (`Store.publish`): this may be the one that is about to go. Kernel folders go last; then
the manifests are read once more, and what a new one needs is put back out of its pack. A sweep that is killed leaves
objects of no bundle, which the next one takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from tritonsync.errors import RemoteError
from tritonsync.format.bundle import CHANGING
from tritonsync.format.layout import BundlePlace, kernel_folder_of, key_prefix
from tritonsync.format.manifest import MAX_MANIFEST_BYTES
from tritonsync.format.workload import WorkloadEntry
from tritonsync.remote.bucket import Bucket
from tritonsync.remote.threads import Progress, in_parallel
from tritonsync.store.catalog import Catalog, batches, places_in
from tritonsync.store.needs import Needs
from tritonsync.store.retention import Plan, objects_of_bundles
from tritonsync.store.writer import Published, Store

__all__ = ["Swept", "missing_entries", "sweep"]

#: Bundles between two looks at the lists, at most.
BATCH = 64
#: Objects that are deleted at a time.
DELETES_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class Swept:
    """What a sweep did.

    Attributes:
        bundles: how many are gone.
        objects: how many are gone, those of the bundles included.
        bytes: of these objects.
        spared: bundles of the plan that a list named meanwhile, and that stay.
        unread: bundles of the plan that stay because their manifest could not be read.
    """

    bundles: int
    objects: int
    bytes: int
    spared: int
    unread: int


def sweep(catalog: Catalog, plan: Plan, *, progress: Progress | None = None) -> Swept:
    """Take away what a plan names, unless a list names it meanwhile.

    Args:
        catalog: the one that the plan was made of.
        plan: from `mark`.
        progress: called with (done, all) bundles.

    Raises:
        RemoteError: the bucket could not be asked, or does not allow it.
    """
    bucket, objects = catalog.bucket, catalog.objects
    known = {place for place in catalog.places if place.kind == "workload"}
    needs = Needs(catalog)
    by_bundle = objects_of_bundles(objects)
    gone: list[BundlePlace] = []
    spared = unread = done = 0
    # What the listing shows is read, and no more of them at a time than memory is to hold.
    limits = {place: min(objects[place.manifest].size, MAX_MANIFEST_BYTES) for place in plan.bundles}
    for batch in batches(limits, BATCH):
        named = needs.named_since(known)
        going = [place for place in batch if place not in named]
        answers = bucket.get_many({place.manifest: batch[place] for place in going})
        # What could not be read could not be put back either.
        readable = [place for place in going if not isinstance(answers[place.manifest], Exception)]
        contents = {place: data for place in readable if isinstance(data := answers[place.manifest], bytes)}
        try:
            _delete(bucket, [place.manifest for place in readable])
            named = needs.named_since(known)
        except BaseException:
            _put_back(bucket, contents)
            raise
        saved = {place: data for place, data in contents.items() if place in named}
        _put_back(bucket, saved)
        lost = [place for place in readable if place not in saved]
        gone += lost
        unread += len(going) - len(readable)
        spared += len(batch) - len(going) + len(saved)
        rests = {name for place in lost for name in by_bundle[place.prefix]} - {place.manifest for place in lost}
        packs = rests & {place.pack for place in lost}
        # A manifest that is there now is another writer's. It wrote a pack of its own, unless it saw that this one is
        # gone, and then nothing else is left here that it could have taken for its own.
        _delete(bucket, rests - packs)
        _delete(bucket, packs)
        done += len(batch)
        if progress is not None:
            progress(done, len(plan.bundles))
    _delete(bucket, plan.leftovers)
    names = [name for place in gone for name in by_bundle[place.prefix]] + list(plan.leftovers)
    removed = sum(objects[name].size for name in names)
    files = _sweep_folders(catalog, plan.folders)
    names += files
    removed += sum(files.values())
    return Swept(bundles=len(gone), objects=len(names), bytes=removed, spared=spared, unread=unread)


def _put_back(bucket: Bucket, contents: Mapping[BundlePlace, bytes]) -> None:
    """Write manifests again, as many as the bucket takes.

    Raises:
        RemoteError: it did not take one of them.
    """

    def create(place: BundlePlace) -> RemoteError | None:
        try:
            bucket.create(place.manifest, contents[place])
        except RemoteError as exc:
            return exc
        return None

    for error in in_parallel(create, contents, DELETES_AT_ONCE).values():
        if error is not None:
            raise error


def _sweep_folders(catalog: Catalog, folders: Collection[str]) -> dict[str, int]:
    """Take away kernel folders that no bundle uses now; return the names of their files, with sizes."""
    if not folders:
        return {}
    bucket = catalog.bucket
    before = Catalog(bucket, trust=catalog.trust)
    needs = Needs(before)
    needs.read(before.places)
    if needs.newer:
        return {}
    going = set(folders) - {folder for place in before.places for folder in needs.folders(place)}
    files = {name: info.size for name, info in bucket.list("kernels/").items() if kernel_folder_of(name) in going}
    _delete(bucket, files)
    after = Catalog(bucket, trust=catalog.trust)
    new, needs = set(after.places) - set(before.places), Needs(after)
    needs.read(new)
    for place in new:
        if needs.folders(place) & going:
            _put_back_folders(bucket, place)
    return files


def _put_back_folders(bucket: Bucket, place: BundlePlace) -> None:
    """Write the kernel folders of a bundle out of its pack, where its writer took them for present."""
    store = Store(bucket)
    for loaded in store.load(place.kind, place.key, variants=(place.variant,)).bundles:
        store.complete(Published(place, created=False, packed=loaded.bundle))


def missing_entries(bucket: Bucket, entries: Iterable[WorkloadEntry]) -> set[WorkloadEntry]:
    """Return those entries of a list whose bundle is not in the bucket: a writer asks after it has published the list.

    One listing for each key, several at a time.

    Raises:
        RemoteError: the bucket could not be asked.
    """
    by_prefix: dict[str, set[WorkloadEntry]] = {}
    for entry in entries:
        by_prefix.setdefault(key_prefix(entry.kind, entry.key), set()).add(entry)
    missing: set[WorkloadEntry] = set()
    for prefix, listing in in_parallel(bucket.list, by_prefix, DELETES_AT_ONCE).items():
        variants = {place.variant for place in places_in(listing)}
        for entry in by_prefix[prefix]:
            if not (variants if entry.kind in CHANGING else variants & {entry.variant}):
                missing.add(entry)
    return missing


def _delete(bucket: Bucket, names: Iterable[str]) -> None:
    in_parallel(bucket.delete, names, DELETES_AT_ONCE)
