"""Of the bundles of a workload, the one whose key differs least from a key that the bucket lacks, and in what."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping

from tritonsync.errors import FormatError
from tritonsync.format.bundle import Bundle
from tritonsync.format.facts import key_parts_of_value
from tritonsync.format.key_parts import (
    Difference,
    KeyParts,
    Part,
    differences,
    groups_of_parts,
    key_parts_of,
    parts_of_kernel,
)
from tritonsync.format.layout import AUTOTUNE, BundlePlace, stored_key
from tritonsync.format.manifest import Manifest
from tritonsync.format.value import value_of_bundle
from tritonsync.sync.here import Here, needs
from tritonsync.sync.stored import Holdings

__all__ = ["Nearest", "Neighbour"]

log = logging.getLogger(__name__)

#: Bundles that are compared where no workload says which.
MAX_COMPARED = 256
#: Bundles whose content is read to say more of what differs, or because their manifests do not tell.
MAX_READ = 16
#: What a group of parts that differs weighs, where not 1: the same code for other inputs is nearer than other code.
_WEIGHTS = {"code": 4.0, "inputs": 2.0, "call": 2.0}
#: Less than any weight: of bundles that are equally near, the one that was traced from the same files.
_SAME_FILES = 0.5


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A bundle, and what differs between its key and another one, what explains most in front."""

    place: BundlePlace
    manifest: Manifest
    differences: tuple[Difference, ...]


class Nearest:
    """Compares keys with those of bundles that a bucket holds."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._contents: dict[str, Bundle | None] = {}
        self._parts: dict[str, tuple[Part, ...]] = {}
        wanted = {(entry.kind, stored_key(entry.kind, entry.key)) for entry in holdings.near()}
        places = [place for place in holdings.catalog.places if place.variant != AUTOTUNE]
        chosen = [place for place in places if (place.kind, place.key) in wanted]
        if not chosen and holdings.list is None:
            chosen = [place for place in places if place.kind in ("fx_graph", "triton", "workload")][:MAX_COMPARED]
        found = [(place, manifest) for place, manifest in holdings.manifests(chosen) if isinstance(manifest, Manifest)]
        self._all = [*found, *((manifest.place, manifest) for manifest in holdings.lists)]

    def graph(self, parts: tuple[Part, ...], sources: Mapping[str, str], here: Here) -> Neighbour | None:
        """Return the bundle that is nearest to a graph; None: there is none to compare it with.

        Args:
            parts: of the graph's key; empty: not known.
            sources: files that it was traced from, and digests of them.
            here: where it was compiled.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        groups = groups_of_parts(parts)
        graphs = [(place, manifest, self._told(manifest)) for place, manifest in self._all if place.kind == "fx_graph"]
        if not graphs:
            return None
        place, manifest, told = min(graphs, key=lambda each: _distance(groups, sources, each[2]))
        found = list(needs(manifest, here))
        if any(each.part == "torch" for each in found):
            # Parts are written down otherwise by another torch, so nothing else can be compared.
            return Neighbour(place, manifest, tuple(found))
        theirs = self._parts_of(manifest) if parts else ()
        if theirs:
            more = differences(parts, theirs)
        else:
            more = [
                Difference(group, None, None)
                for group in groups
                if told.groups.get(group, groups[group]) != groups[group]
            ]
        changed = [name for name in sources if told.sources.get(name, sources[name]) != sources[name]]
        if any(each.part in ("graph", "code") for each in more):
            found += [Difference(f"source of {name}", None, None) for name in sorted(changed)]
        known = {each.part.lower() for each in found}
        known |= {"triton or cuda"} if "triton" in known else set()
        return Neighbour(place, manifest, (*found, *(each for each in more if each.part.lower() not in known)))

    def kernel(self, name: str, parts: tuple[Part, ...]) -> Neighbour | None:
        """Return the bundle that holds the build of a kernel's function that is nearest; None: it holds none.

        Raises:
            RemoteError: the bucket could not be asked.
        """
        best: Neighbour | None = None
        for place, manifest in self._all:
            hashes = {kernel.hash for kernel in manifest.kernels if kernel.name == name}
            if place.kind not in ("triton", "workload") or not hashes:
                continue
            bundle = self._content(manifest)
            for kernel in () if bundle is None else bundle.kernels:
                if kernel.hash in hashes:
                    found = tuple(differences(parts, parts_of_kernel(kernel))) if parts else ()
                    if best is None or len(found) < len(best.differences):
                        best = Neighbour(place, manifest, found)
        return best

    def _told(self, manifest: Manifest) -> KeyParts:
        """Return what a manifest tells of its key; of an older one, what its value does."""
        told = key_parts_of(manifest)
        if told.groups or manifest.kind != "fx_graph":
            return told
        return KeyParts(groups_of_parts(self._parts_of(manifest)), told.sources)

    def _parts_of(self, manifest: Manifest) -> tuple[Part, ...]:
        key = manifest.bundle_id
        if key not in self._parts:
            bundle = self._content(manifest)
            try:
                self._parts[key] = () if bundle is None else key_parts_of_value(value_of_bundle(bundle))
            except FormatError as exc:
                log.info("%s: what its key is made of cannot be read: %s", manifest.place.prefix, exc)
                self._parts[key] = ()
        return self._parts[key]

    def _content(self, manifest: Manifest) -> Bundle | None:
        key = manifest.bundle_id
        if key not in self._contents:
            if len(self._contents) >= MAX_READ:
                return None
            self._contents[key] = self._holdings.reader.load_content(manifest)
        return self._contents[key]


def _distance(groups: Mapping[str, str], sources: Iterable[str], told: KeyParts) -> float:
    """Return how far a bundle is from a key; where its parts are not known, far."""
    if not told.groups:
        return float(len(groups) + sum(_WEIGHTS.values()))
    differing = {group for group in groups.keys() | told.groups.keys() if groups.get(group) != told.groups.get(group)}
    return sum(_WEIGHTS.get(group, 1.0) for group in differing) - _SAME_FILES * bool(set(sources) & told.sources.keys())
