"""`tritonsync ls` and `tritonsync show`: what a bucket holds."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated

import typer

from tritonsync import times
from tritonsync.cli.options import Connection, Json, StorageOptions, Timeout, Url
from tritonsync.cli.output import Output, amount, complain, size

__all__ = ["ls", "show"]

Kind = Annotated[
    str | None,
    typer.Option("--kind", help="Only bundles of this kind: fx_graph, aot_autograd, workload, ...", show_default=False),
]
Limit = Annotated[int, typer.Option("--limit", min=0, metavar="N", help="Only the newest N bundles; 0: all.")]
Key = Annotated[
    str,
    typer.Argument(help="A key or the beginning of one, a workload, a kernel hash, or <kind>/<key>[/<variant>]."),
]


def ls(
    context: typer.Context,
    kind: Kind = None,
    limit: Limit = 100,
    url: Url = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """List the bundles in the bucket, newest first."""
    from tritonsync.cli.describe import HEADERS, described, row
    from tritonsync.format.bundle import KINDS
    from tritonsync.store.catalog import Catalog
    from tritonsync.store.keys import trust_of

    if kind is not None and kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is no kind of bundle; these are: {', '.join(KINDS)}")
    output = Output(as_json)
    connection = Connection(context, url, storage_options, timeout)
    trust = trust_of(connection.settings)
    connection.ask_to_read()
    catalog = Catalog(connection.bucket, trust=trust)
    entries = list(catalog.entries(kind=kind, newest=limit or None))
    bundles = sum(kind in (None, place.kind) for place in catalog.places)
    total = sum(info.size for info in catalog.objects.values())
    now = time.time()
    output.table(HEADERS, [row(entry, now) for entry in entries])
    for entry in entries:
        if entry.problem is not None and not as_json:
            complain(f"cannot be used: {entry.problem}")
    shown = f", the newest {len(entries)} shown" if len(entries) < bundles else ""
    output.result(
        {
            "url": connection.bucket.url,
            "bundles_total": bundles,
            "bytes_total": total,
            "bundles": [described(entry) for entry in entries],
        },
        f"{amount(bundles, 'bundle')}{shown}, {size(total)} in {connection.bucket.url}",
    )


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
    from tritonsync.store.catalog import Catalog
    from tritonsync.store.keys import trust_of

    output = Output(as_json)
    connection = Connection(context, url, storage_options, timeout)
    trust = trust_of(connection.settings)
    connection.ask_to_read()
    catalog = Catalog(connection.bucket, trust=trust)
    places = catalog.find(key)
    builds = () if places else catalog.kernels(key)
    found = list(catalog.manifests(places))
    bundles = [{"place": place.prefix, **document(manifest)} for place, manifest in found]
    kernels = [dataclasses.asdict(build) for build in builds]
    text = [bundle_text(place, manifest) for place, manifest in found] + [kernel_text(build) for build in builds]
    output.result({"url": connection.bucket.url, "bundles": bundles, "kernels": kernels}, "\n\n".join(text))
