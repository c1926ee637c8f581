"""Every byte of a bucket read again and checked: what `tritonsync verify` does.

=============  =========================================================================================================
bad            an object that does not hold what it has to, and a bundle that nothing can load any more. Readers notice
               and go on without, so it costs time, never correctness.
incomplete     something is missing that another object makes up for: the pack, or single objects, of a bundle that
               loads all the same; and a bundle that a workload lists. The next push adds it.
newer          a manifest of a format that this tritonsync does not know: neither checked nor ever removed.
untrusted      an intact manifest that none of the trusted keys has signed. Readers leave it alone, and so does this:
               its bundle is not checked further, and never removed.
leftovers      objects of no bundle: of a killed writer, or of a bundle whose manifest is gone. Harmless; kernel folders
               among them that are not whole are incomplete, too.
=============  =========================================================================================================
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

from tritonsync.errors import FormatError, NotInBucketError
from tritonsync.format.layout import BundlePlace, stored_key
from tritonsync.format.manifest import Manifest
from tritonsync.format.workload import workload_of_manifest
from tritonsync.remote.threads import Progress, in_parallel
from tritonsync.store.catalog import Catalog
from tritonsync.store.checker import Checker, Problem

__all__ = ["Problem", "Verified", "verify"]

#: Bundles in flight at a time: enough to hide round trips, few enough to hold in memory.
BUNDLES_AT_ONCE = 4


@dataclasses.dataclass(frozen=True)
class Verified:
    """What was found; the lists are explained above.

    Attributes:
        bundles: how many were checked.
        objects: how many were read.
        bytes: of these objects.
        bad: anything in here is a failure.
        incomplete: a warning.
        newer: a warning.
        untrusted: a warning.
        leftovers: prefixes.
        removed: names of objects that were removed.
        requests: to the bucket.
    """

    bundles: int
    objects: int
    bytes: int
    bad: tuple[Problem, ...]
    incomplete: tuple[Problem, ...]
    newer: tuple[Problem, ...]
    untrusted: tuple[Problem, ...]
    leftovers: tuple[str, ...]
    removed: tuple[str, ...]
    requests: int


def verify(
    catalog: Catalog, name: str | None = None, *, delete_bad: bool = False, progress: Progress | None = None
) -> Verified:
    """Read bundles and the kernel folders they use, and check every hash and signature.

    Args:
        catalog: of the bucket.
        name: whose bundles, as `Catalog.find` takes it; those that a workload lists belong to it. None: everything.
        delete_bad: remove bad objects afterwards; of a bundle that cannot be loaded any more everything, the manifest
            first. Neither readers nor writers need the right to do that: it is for whoever owns the bucket.
        progress: called with (done, all) bundles.

    Raises:
        NotInBucketError: the name means nothing here, or the bucket holds nothing at all.
        RemoteError: the bucket could not be asked, or does not allow what was to be removed.
    """
    before = catalog.bucket.stats
    places = catalog.places if name is None else list(_with_listed(catalog, catalog.find(name)))
    if name is not None and not places:
        raise catalog.nothing_called(name)
    kernels = catalog.kernel_objects if name is None else None
    if not places and not kernels:
        url = catalog.bucket.url
        raise NotInBucketError(f"{url} holds nothing that could be verified; check the URL", url=url)
    checker = Checker(catalog, kernels)
    in_parallel(checker.bundle, places, BUNDLES_AT_ONCE, progress)
    leftovers: tuple[str, ...] = ()
    if name is None:
        folders = checker.unused_folders()
        in_parallel(checker.unused, folders, BUNDLES_AT_ONCE)
        leftovers = (*checker.unfinished_bundles(), *folders)
    removed = tuple(checker.remove_bad()) if delete_bad else ()
    after = catalog.bucket.stats
    return Verified(
        bundles=len(places),
        objects=checker.objects,
        bytes=after.bytes_down - before.bytes_down,
        bad=_sorted(checker.bad),
        incomplete=_sorted([*checker.incomplete, *checker.unlisted()]),
        newer=_sorted(checker.newer),
        untrusted=_sorted(checker.untrusted),
        leftovers=leftovers,
        removed=removed,
        requests=after.requests - before.requests,
    )


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: problem.name))


def _with_listed(catalog: Catalog, places: Iterable[BundlePlace]) -> Iterator[BundlePlace]:
    """Yield the bundles, and those of every key that the workloads among them list."""
    first = dict.fromkeys(places)
    keys: set[tuple[str, str]] = set()
    for _, manifest in catalog.manifests(place for place in first if place.kind == "workload"):
        with contextlib.suppress(FormatError):  # the checker says so
            if isinstance(manifest, Manifest):
                entries = workload_of_manifest(manifest).entries
                keys.update((entry.kind, stored_key(entry.kind, entry.key)) for entry in entries)
    yield from first
    for place in catalog.places:
        if place not in first and (place.kind, place.key) in keys:
            yield place
