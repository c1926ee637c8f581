"""What the bundles of a bucket need and name, as their manifests say: read as they come.

A list that could not be read may name anything: it is damaged, of a newer format, or was being replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable

from tritonsync.errors import FormatError, NewerFormatError
from tritonsync.format.bundle import CHANGING
from tritonsync.format.layout import AUTOTUNE, BundlePlace, kernel_prefix, stored_key
from tritonsync.format.manifest import Manifest
from tritonsync.format.signing import TrustPolicy
from tritonsync.format.workload import WorkloadEntry, workload_of_manifest
from tritonsync.store.catalog import Catalog, Objects, places_in

__all__ = ["Name", "Named", "Needs", "name_of"]

#: What lists call a bundle: kind, key as it stands in object names, and variant where that counts.
Name = tuple[str, str, str]


def name_of(place: BundlePlace) -> Name:
    """Return what lists call a bundle."""
    # Of what changes, every list means the newest; autotune results belong to all variants of their graph.
    counts = place.kind not in CHANGING and place.variant != AUTOTUNE
    return place.kind, place.key, place.variant if counts else ""


def _names(entry: WorkloadEntry) -> Iterable[Name]:
    key = stored_key(entry.kind, entry.key)
    return (entry.kind, key, entry.variant), (entry.kind, key, "")


class Named:
    """The bundles that lists name.

    Args:
        names: what they name.
        anything: whether one of them could not be read, and may name any bundle.
    """

    def __init__(self, names: Iterable[Name], *, anything: bool) -> None:
        self._names, self.anything = frozenset(names), anything

    def __contains__(self, place: BundlePlace) -> bool:
        return self.anything or name_of(place) in self._names


@dataclasses.dataclass(frozen=True)
class _Content:
    """What counts of a manifest; `names` is None where it should hold a list and does not."""

    folders: frozenset[str]
    signer: str | None
    names: frozenset[Name] | None = frozenset()


class Needs:
    """What has been read so far.

    Args:
        catalog: of the bucket.
        trust: whose signatures can be checked here.

    Attributes:
        newer: bundles of a newer format; what they need is not known here.
    """

    def __init__(self, catalog: Catalog, trust: TrustPolicy | None = None) -> None:
        self._catalog, self._trust = catalog, trust or TrustPolicy()
        self._contents: dict[BundlePlace, _Content] = {}
        self.newer: set[BundlePlace] = set()

    def read(self, places: Iterable[BundlePlace], objects: Objects | None = None) -> None:
        """Read manifests that are not known yet, of this listing.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        new = [place for place in places if place not in self._contents]
        for place, manifest in self._catalog.manifests(new, objects):
            if isinstance(manifest, NewerFormatError):
                self.newer.add(place)
            elif isinstance(manifest, Manifest):
                self._contents[place] = self._content(manifest)

    def is_readable(self, place: BundlePlace) -> bool:
        """Whether a bundle's manifest could be read, and the list in it if it is a list's."""
        content = self._contents.get(place)
        return content is not None and content.names is not None

    def signer(self, place: BundlePlace) -> str | None:
        """Return the id of the key that signed a bundle; None: it is not signed, or could not be read.

        What says to be signed by a key that is not known here, as anybody can make it, is by itself: its prefix.
        """
        content = self._contents.get(place)
        return None if content is None else content.signer

    def is_strange(self, place: BundlePlace) -> bool:
        """Whether a bundle says to be signed by a key that is not known here."""
        return self.signer(place) == place.prefix

    def folders(self, place: BundlePlace) -> frozenset[str]:
        """Return the kernel folders that a bundle uses; one that could not be read uses none."""
        content = self._contents.get(place)
        return frozenset() if content is None else content.folders

    def names(self, place: BundlePlace) -> frozenset[Name]:
        """Return what a list names; one that could not be read names nothing here."""
        content = self._contents.get(place)
        return frozenset() if content is None or content.names is None else content.names

    def named(self, lists: Collection[BundlePlace]) -> Named:
        """Return the bundles that these lists name."""
        names = {name for place in lists for name in self.names(place)}
        return Named(names, anything=not all(map(self.is_readable, lists)))

    def named_since(self, known: Collection[BundlePlace]) -> Named:
        """Look for lists that were not there before, and return what they name.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        objects = self._catalog.bucket.list("bundles/workload/")
        found = [place for place in places_in(objects) if place not in known]
        self.read(found, objects)
        return self.named(found)

    def _content(self, manifest: Manifest) -> _Content:
        folders = frozenset(kernel_prefix(kernel.hash, kernel.content_id) for kernel in manifest.kernels)
        signer = None
        if manifest.signature is not None:
            signer = self._trust.signer_of(manifest) or manifest.place.prefix
        if manifest.kind != "workload":
            return _Content(folders, signer)
        with contextlib.suppress(FormatError):
            entries = workload_of_manifest(manifest).entries
            return _Content(folders, signer, frozenset(name for entry in entries for name in _names(entry)))
        return _Content(folders, signer, None)
