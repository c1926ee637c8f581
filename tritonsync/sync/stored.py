"""What a bucket holds of a workload at one moment, and what keeps each of its bundles from being served here."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable, Iterator

from tritonsync.errors import FormatError, TrustError
from tritonsync.format.key_parts import Difference
from tritonsync.format.layout import AUTOTUNE, BundlePlace, key_prefix, stored_key
from tritonsync.format.manifest import Manifest
from tritonsync.format.workload import WorkloadEntry, workload_of_manifest
from tritonsync.store.catalog import Catalog
from tritonsync.store.reader import Reader
from tritonsync.sync.here import Here, needs

__all__ = ["Holdings", "Stored"]

#: Lists of one workload that are read: of the last runs.
MAX_LISTS = 8


@dataclasses.dataclass(frozen=True)
class Stored:
    """A bundle as this host sees it.

    Attributes:
        kind, key, variant: of the bundle.
        place: its prefix; None: the workload lists it, and the bucket has it no more.
        obstacles: what keeps it from being served here; empty: nothing, if a program makes the same key.
        made: when, as its manifest states it.
        guards: under which torch may use it; empty for none.
    """

    kind: str
    key: str
    variant: str
    place: str | None
    obstacles: tuple[Difference, ...] = ()
    made: str | None = None
    guards: str = ""


class Holdings:
    """The bundles of one workload, or of the whole bucket.

    Args:
        reader: of the bucket; its trust counts.
        workload: whose bundles; None: all.
        keys: kinds and keys that are listed besides; None: the whole bucket is.
        before: what was published later is left out, as if it were not there; None: nothing is. What was published in
            the same second, and manifests state whole ones, counts: it may be of a run that has just ended.
        own: prefixes of bundles that are left out, whenever they were published.

    Attributes:
        list: the workload's newest list; None: there is none.
        entries: what it lists.
        lists: the newest list and some before it: each holds only what its own run used.
        catalog: everything that was listed.

    Raises:
        RemoteError: the bucket could not be asked.
        FormatError: the workload's list cannot be read.
    """

    def __init__(
        self,
        reader: Reader,
        workload: str | None = None,
        *,
        keys: Collection[tuple[str, str]] | None = None,
        before: str | None = None,
        own: Collection[str] = (),
    ) -> None:
        self.reader, self.workload, self._before, self._own = reader, workload, before, own
        whole = self._catalog(["bundles/"]) if keys is None else None
        self._lists = whole or self._catalog([] if workload is None else [key_prefix("workload", workload)])
        self.lists = [] if workload is None else list(self._newest_lists(stored_key("workload", workload)))
        self.list = self.lists[0] if self.lists else None
        self.entries = () if self.list is None else workload_of_manifest(self.list).entries
        if whole is None:
            listed = {(entry.kind, entry.key) for entry in self.near()} | set(keys or ())
            whole = self._catalog([key_prefix(kind, key) for kind, key in sorted(listed)])
        self.catalog = whole

    def _catalog(self, below: Collection[str]) -> Catalog:
        return Catalog(self.reader.bucket, trust=self.reader.trust, below=below)

    def _newest_lists(self, key: str) -> Iterator[Manifest]:
        places = [place for place in self._lists.places if (place.kind, place.key) == ("workload", key)]
        newest = sorted(places, key=lambda place: place.variant)[:MAX_LISTS]
        found = sorted(self._lists.manifests(newest), key=lambda pair: pair[0].variant)
        return (manifest for _, manifest in found if isinstance(manifest, Manifest) and self.counts(manifest))

    def near(self) -> list[WorkloadEntry]:
        """Return what the lists list, the newest first."""
        found: dict[WorkloadEntry, None] = {}
        for manifest in self.lists:
            # The newest has been read before; an older one that cannot be is none.
            with contextlib.suppress(FormatError):
                found |= dict.fromkeys(workload_of_manifest(manifest).entries)
        return list(found)

    def counts(self, found: Manifest | FormatError) -> bool:
        """Whether it was there before; what cannot be read does not tell."""
        if isinstance(found, FormatError):
            return True
        return found.place.prefix not in self._own and (self._before is None or found.created <= self._before)

    def places(self, kind: str, key: str) -> list[BundlePlace]:
        """Return where the bundles of a key lie, but for autotune results."""
        stored = stored_key(kind, key)
        found = (place for place in self.catalog.places if (place.kind, place.key) == (kind, stored))
        return [place for place in found if place.variant != AUTOTUNE]

    def manifests(self, places: Iterable[BundlePlace]) -> Iterator[tuple[BundlePlace, Manifest | FormatError]]:
        """Fetch manifests, those that were there before.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        for place, found in self.catalog.manifests(places):
            if self.counts(found):
                yield place, found

    def stored(self, places: Iterable[BundlePlace], here: Here) -> list[Stored]:
        """Say of bundles what keeps them from being served.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        return [self._stored(place, found, here, self.catalog) for place, found in self.manifests(places)]

    def of_workload(self, here: Here) -> list[Stored]:
        """Say the same of everything that the workload lists, and of the kernels that it holds itself.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        states: list[Stored] = []
        if self.list is not None and self.list.kernels:
            states.append(self._stored(self.list.place, self.list, here, self._lists))
        of_entry = {entry: self._of_entry(entry) for entry in self.entries}
        found = dict(self.manifests(place for places in of_entry.values() for place in places))
        for entry, places in of_entry.items():
            there = [self._stored(place, found[place], here, self.catalog) for place in places if place in found]
            gone = Stored(entry.kind, entry.key, entry.variant, None, (Difference("gone", None, None),))
            # Rivals of one variant: a reader takes the best.
            states.append(min(there, key=lambda state: len(state.obstacles), default=gone))
        return states

    def _of_entry(self, entry: WorkloadEntry) -> list[BundlePlace]:
        return [place for place in self.places(entry.kind, entry.key) if place.variant == entry.variant]

    @staticmethod
    def _stored(place: BundlePlace, found: Manifest | FormatError, here: Here, catalog: Catalog) -> Stored:
        if isinstance(found, FormatError):
            what = "signature" if isinstance(found, TrustError) else "damaged"
            why = str(found).removeprefix(f"{place.manifest}: ")
            return Stored(place.kind, place.key, place.variant, place.prefix, (Difference(what, None, why),))
        obstacles = (*_losses(place, found, catalog), *needs(found, here))
        return Stored(found.kind, found.key, found.variant, place.prefix, obstacles, found.created, found.guards)


def _losses(place: BundlePlace, found: Manifest, catalog: Catalog) -> Iterator[Difference]:
    pack = catalog.objects.get(place.pack)
    if found.pack is None:
        return
    if pack is None:
        yield Difference("damaged", None, "its pack is missing: expired, or removed")
    elif pack.size != found.pack.size:
        yield Difference("damaged", None, f"its pack has {pack.size} bytes instead of {found.pack.size}")
