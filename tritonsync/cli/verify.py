"""`tritonsync verify`."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated

import typer

from tritonsync import times
from tritonsync.cli.options import Connection, Json, StorageOptions, Timeout, Url
from tritonsync.cli.output import Output, amount, complain, size
from tritonsync.cli.progress import Moved, progress

__all__ = ["verify"]

Key = Annotated[
    str | None,
    typer.Argument(help="A key or the beginning of one, or a workload with all that it lists.", show_default=False),
]
DeleteBad = Annotated[
    bool,
    typer.Option(
        "--delete-bad",
        help="Remove objects that are bad, and bundles that cannot be loaded any more. Needs the right to delete.",
    ),
]


def verify(
    context: typer.Context,
    key: Key = None,
    delete_bad: DeleteBad = False,
    url: Url = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """Read everything again and check every hash.

    Names each object that is bad, and exits with 1 if there is one. Signatures are checked where keys are trusted; a
    bundle that no trusted key has signed is a warning, and is never removed. What is missing but made up for by another
    object is a warning: it loads, and the next push adds it.
    """
    from tritonsync.store.catalog import Catalog
    from tritonsync.store.trust import trust_of
    from tritonsync.store.verify import verify as verify_bundles

    output = Output(as_json)
    connection = Connection(context, url, storage_options, timeout)
    if delete_bad:
        connection.check_mode("remove anything")
    trust = trust_of(connection.settings)
    started = time.perf_counter()
    connection.ask_to_read()
    catalog = Catalog(connection.bucket, trust=trust)
    everything = (*catalog.objects.values(), *catalog.kernel_objects.values()) if key is None else ()
    expected = sum(info.size for info in everything) or None

    def moved() -> Moved:
        stats = connection.bucket.stats
        return Moved(stats.objects_read, stats.bytes_down, expected)

    with progress("verifying", "bundles", moved) as told:
        found = verify_bundles(catalog, key, delete_bad=delete_bad, progress=told)
    seconds = round(time.perf_counter() - started, 3)
    for label in ("bad", "incomplete", "newer", "untrusted"):
        for problem in getattr(found, label):
            if not as_json:
                complain(f"{label}: {problem.name}: {problem.what}")
    summary = f"{len(found.bad)} bad, {len(found.incomplete)} incomplete"
    if found.newer:
        summary += f", {len(found.newer)} of a newer format"
    if found.untrusted:
        summary += f", {len(found.untrusted)} signed by nobody who is trusted"
    if found.leftovers:
        summary += f", {amount(len(found.leftovers), 'leftover')} of writers that did not finish"
    if found.removed:
        summary += f"; removed {amount(len(found.removed), 'object')}"
    output.result(
        {"url": connection.bucket.url, **dataclasses.asdict(found), "seconds": seconds},
        f"verified {amount(found.bundles, 'bundle')} of {connection.bucket.url}: {amount(found.objects, 'object')}, "
        f"{size(found.bytes)}, {seconds:.1f} s\n{summary}",
    )
    if found.bad:
        raise typer.Exit(1)
