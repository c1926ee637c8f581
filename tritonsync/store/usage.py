"""How much a bucket holds, added up by workload, by kind or by age: what `tritonsync du` shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from tritonsync.format.layout import BundlePlace
from tritonsync.store.catalog import Catalog

__all__ = ["Row", "Usage", "usage"]

#: Upper bounds of the rows of `by="age"`, in days.
_DAYS = (1, 7, 30, 90, 365)
_FOLDERS = "kernel folders"


@dataclasses.dataclass(frozen=True)
class Row:
    """One sum.

    Attributes:
        name: of the workload, the kind, or the span of ages.
        bundles: how many.
        bytes: of their own objects; kernel folders, which bundles share, are a row of their own.
        newest_s: seconds since the newest was written; None where that is not known.
    """

    name: str
    bundles: int
    bytes: int
    newest_s: float | None


@dataclasses.dataclass(frozen=True)
class Usage:
    """All rows, the largest first, and what they come to; what two workloads share counts once here."""

    rows: tuple[Row, ...]
    bundles: int
    bytes: int


def usage(catalog: Catalog, by: str, *, now: float) -> Usage:
    """Add up a bucket.

    Args:
        catalog: of the bucket.
        by: `workload`, `kind` or `age`.
        now: seconds since 1970.

    Raises:
        RemoteError: the bucket could not be asked.
    """
    groups: dict[str, set[BundlePlace]] = {}
    if by == "workload":
        for entry in catalog.entries():
            names: Iterable[str] = entry.workloads
            if entry.place.kind == "workload":
                names = (entry.key,)
            for name in names or ("(no workload)",):
                groups.setdefault(name, set()).add(entry.place)
    else:
        for place in catalog.places:
            modified = catalog.objects[place.manifest].modified
            age = "unknown" if modified is None else _span(now - modified)
            name = place.kind if by == "kind" else age
            groups.setdefault(name, set()).add(place)
    sizes: dict[str, int] = {}
    for name, info in catalog.objects.items():
        prefix = "/".join(name.split("/")[:5]) + "/"
        sizes[prefix] = sizes.get(prefix, 0) + info.size
    kernels = catalog.kernel_objects
    rows = [
        Row(
            name,
            len(places),
            sum(sizes[place.prefix] for place in places),
            _newest((catalog.objects[place.manifest].modified for place in places), now),
        )
        for name, places in groups.items()
    ]
    folders = Row(
        _FOLDERS, 0, sum(info.size for info in kernels.values()), _newest((k.modified for k in kernels.values()), now)
    )
    rows = sorted(rows, key=lambda row: (-row.bytes, row.name)) + ([folders] if kernels else [])
    return Usage(tuple(rows), len(catalog.places), sum(sizes.values()) + folders.bytes)


def _newest(times: Iterable[float | None], now: float) -> float | None:
    known = [time for time in times if time is not None]
    return now - max(known) if known else None


def _span(seconds: float) -> str:
    for days in _DAYS:
        if seconds < days * 86_400:
            return f"under {days} d"
    return f"{_DAYS[-1]} d and more"
