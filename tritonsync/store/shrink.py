"""What goes from a bucket with which bytes, and what goes on top of that until the rest has no more than a size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from tritonsync.format.bundle import ROOTS
from tritonsync.format.layout import BundlePlace
from tritonsync.store.needs import Name, Needs, name_of

__all__ = ["Going", "steps"]


class Going:
    """Bundles that go, and kernel folders that none uses that stays.

    Args:
        places: all bundles.
        needs: what they use.
        sizes: bytes of the objects of each, by prefix.
        folders: bytes of each kernel folder that may go.

    Attributes:
        bundles: those that go.
        folders: those that go.
        bytes: of all these.
    """

    def __init__(
        self, places: Iterable[BundlePlace], needs: Needs, sizes: Mapping[str, int], folders: Mapping[str, int]
    ) -> None:
        self._needs, self._sizes, self._folders = needs, sizes, folders
        self._users = Counter(folder for place in places for folder in needs.folders(place))
        self.bundles: set[BundlePlace] = set()
        self.folders: set[str] = set()
        self.bytes = 0

    def take(self, place: BundlePlace) -> None:
        """Have a bundle go, with the kernel folders that only it used."""
        if place not in self.bundles:
            self.bundles.add(place)
            self.bytes += self._sizes[place.prefix]
            folders = self._needs.folders(place)
            self._users.subtract(folders)
            self._take_unused(folders)

    def take_unused(self) -> None:
        """Have all kernel folders go that nobody uses."""
        self._take_unused(self._folders)

    def _take_unused(self, folders: Iterable[str]) -> None:
        for folder in folders:
            if folder in self._folders and folder not in self.folders and not self._users[folder]:
                self.folders.add(folder)
                self.bytes += self._folders[folder]


def steps(
    kept: Collection[BundlePlace],
    may_go: set[BundlePlace],
    outdated: Collection[BundlePlace],
    needs: Needs,
    ages: Mapping[BundlePlace, float],
    *,
    unnamed: bool,
) -> Iterator[list[BundlePlace]]:
    """Yield what may go for want of space, each time what goes together.

    First the lists of each workload and signer, those that were published longest ago in front, with what they name and
    no other kept list does; so do the bundles of folders. Then what is outdated or named by no kept list, the oldest
    first.

    Args:
        kept: lists, and bundles of folders, that would stay.
        may_go: what may go at all.
        outdated: what counts as named by no list, though its key is named.
        needs: what the lists name.
        ages: of the bundles, in seconds.
        unnamed: whether bundles go, too, that no list named in the first place.
    """
    groups: dict[tuple[str, str, str | None], list[BundlePlace]] = {}
    for place in kept:
        groups.setdefault((place.kind, place.key, needs.signer(place)), []).append(place)
    by_name: dict[Name, list[BundlePlace]] = {}
    for place in may_go:
        if place.kind not in ROOTS:
            by_name.setdefault(name_of(place), []).append(place)
    lists_of = Counter(name for place in kept for name in needs.names(place))
    for group in sorted(groups.values(), key=lambda group: -min(ages[place] for place in group)):
        if not may_go.issuperset(group):
            continue
        step = list(group)
        for name in (name for place in group for name in needs.names(place)):
            lists_of[name] -= 1
            if not lists_of[name]:
                step += by_name.get(name, ())
        yield step
    rest = [place for name, places in by_name.items() for place in places if not lists_of[name] or place in outdated]
    for place in sorted(rest, key=lambda place: -ages[place]) if unnamed else ():
        yield [place]
