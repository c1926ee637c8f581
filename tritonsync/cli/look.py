"""`tritonsync ls` and `tritonsync show`: what a bucket holds."""

from __future__ import annotations

import dataclasses
import time
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from tritonsync import times
from tritonsync.cli.options import Connection, Json, StorageOptions, Timeout, Url
from tritonsync.cli.output import Output, amount, complain, size

if TYPE_CHECKING:
    from tritonsync.store.catalog import Entry

__all__ = ["ls", "show"]


class Order(str, Enum):
    """How `ls` sorts."""

    age = "age"
    size = "size"
    key = "key"


Kind = Annotated[
    str | None,
    typer.Option("--kind", help="Only bundles of this kind: fx_graph, aot_autograd, workload, ...", show_default=False),
]
OfWorkload = Annotated[
    str | None,
    typer.Option("--workload", metavar="NAME", help="Only bundles that this workload lists.", show_default=False),
]
Sort = Annotated[Order, typer.Option("--sort", help="What comes first: the newest, the largest, or by key.")]
Wide = Annotated[bool, typer.Option("--wide", help="Show whole keys and every column, however wide the screen is.")]
Limit = Annotated[int, typer.Option("--limit", min=0, metavar="N", help="Only the first N bundles; 0: all.")]
Key = Annotated[
    str,
    typer.Argument(help="A key or the beginning of one, a workload, a kernel hash, or <kind>/<key>[/<variant>]."),
]


def ls(
    context: typer.Context,
    kind: Kind = None,
    workload: OfWorkload = None,
    sort: Sort = Order.age,
    limit: Limit = 100,
    wide: Wide = False,
    url: Url = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """List the bundles in the bucket, newest first.

    On a screen keys are cut in the middle to fit; `show` takes the beginning of one.
    """
    from tritonsync.cli.describe import DISPENSABLE, HEADERS, described, row
    from tritonsync.format.bundle import KINDS
    from tritonsync.store.catalog import Catalog
    from tritonsync.store.trust import trust_of

    if kind is not None and kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is no kind of bundle; these are: {', '.join(KINDS)}")
    output = Output(as_json)
    connection = Connection(context, url, storage_options, timeout)
    trust = trust_of(connection.settings)
    connection.ask_to_read()
    catalog = Catalog(connection.bucket, trust=trust)
    if workload is not None:
        catalog.check_workload(workload)
    everything = workload is None and sort is Order.age
    entries = list(catalog.entries(kind=kind, newest=(limit or None) if everything else None))
    bundles, total = sum(kind in (None, place.kind) for place in catalog.places), catalog.size(kind)
    if workload is not None:
        entries = [entry for entry in entries if _belongs(entry, workload.lower())]
        bundles, total = len(entries), sum(entry.size for entry in entries)
    if sort is not Order.age:
        entries.sort(key=lambda entry: entry.key if sort is Order.key else -entry.size)
    entries = entries[: limit or None]
    now = time.time()
    rows = [row(entry, now) for entry in entries]
    output.table(HEADERS, rows, cuttable="KEY", dispensable=DISPENSABLE, wide=wide)
    for entry in entries:
        if entry.problem is not None and not as_json:
            complain(f"cannot be used: {entry.problem}")
    first = "newest" if sort is Order.age else "first"
    shown = f", the {first} {len(entries)} shown" if len(entries) < bundles else ""
    output.result(
        {
            "url": connection.bucket.url,
            "bundles_total": bundles,
            "bytes_total": total,
            "bundles": [described(entry) for entry in entries],
        },
        f"{amount(bundles, 'bundle')}{shown}, {size(total)} without kernel folders, in {connection.bucket.url}",
    )


def _belongs(entry: Entry, workload: str) -> bool:
    return workload in entry.workloads or (entry.place.kind == "workload" and entry.key == workload)


def show(
    context: typer.Context,
    key: Key,
    url: Url = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """Show what lies under a key.

    Where and with what it was made, its kernels and payloads, and for a workload what it lists.
    """
    from tritonsync.cli.describe import bundle_text, document, kernel_text
    from tritonsync.errors import FormatError
    from tritonsync.store.catalog import Catalog
    from tritonsync.store.trust import trust_of

    output = Output(as_json)
    connection = Connection(context, url, storage_options, timeout)
    trust = trust_of(connection.settings)
    connection.ask_to_read()
    catalog = Catalog(connection.bucket, trust=trust)
    places = catalog.find(key)
    builds = () if places else catalog.kernels(key)
    found = list(catalog.manifests(places))
    bundles, text = [], []
    for place, manifest in found:
        of = () if isinstance(manifest, FormatError) else (manifest.kind, manifest.key, manifest.variant)
        workloads = catalog.workloads.get(of, ()) if of else ()
        bundles.append({"place": place.prefix, "workloads": workloads, **document(manifest)})
        text.append(bundle_text(place, manifest, workloads))
    kernels = [dataclasses.asdict(build) for build in builds]
    text += [kernel_text(build) for build in builds]
    output.result({"url": connection.bucket.url, "bundles": bundles, "kernels": kernels}, "\n\n".join(text))
