"""`tritonsync du`, `tritonsync gc` and `tritonsync rm`: how much a bucket holds, and what of it may go."""

from __future__ import annotations

import dataclasses
import re
import time
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritonsync import times
from tritonsync.cli.options import Connection, Json, StorageOptions, Timeout, Url
from tritonsync.cli.output import Output, age, amount, complain, size
from tritonsync.cli.progress import progress

if TYPE_CHECKING:
    from tritonsync.format.signing import TrustPolicy
    from tritonsync.store.catalog import Catalog
    from tritonsync.store.retention import Policy

__all__ = ["du", "gc", "rm"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no age; give a number and a unit: 90d, 12h, 30m")
    return float(found[1]) * _UNITS[found[2]]


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    unit = "" if found is None else found[2]
    if found is None or unit not in _SIZES:
        raise typer.BadParameter(f"{text!r} is no size; give a number and a unit: 500MB, 20GB")
    return int(float(found[1]) * _SIZES[unit])


class By(str, Enum):
    """What `du` adds up by."""

    workload = "workload"
    kind = "kind"
    age = "age"


OlderThan = Annotated[
    str | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        help="Remove what no kept list names and was written longer ago, such as 90d; lists of that age go too.",
        show_default=False,
    ),
]
KeepLast = Annotated[
    int,
    typer.Option(
        "--keep-last",
        min=0,
        metavar="N",
        help="Lists of each workload, and bundles of each folder, to keep of each signer.",
    ),
]
OnlyWorkload = Annotated[
    str | None,
    typer.Option(
        "--workload", metavar="NAME", help="Only what this workload names and no other does.", show_default=False
    ),
]
MaxSize = Annotated[
    str | None,
    typer.Option(
        "--max-size",
        metavar="SIZE",
        help="Until the bucket is no larger, such as 20GB, remove the workloads that were published longest ago, then "
        "what no list names.",
        show_default=False,
    ),
]
Grace = Annotated[
    str, typer.Option("--grace", metavar="AGE", help="Remove nothing that is younger. At least 10m beside programs.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")]
Name = Annotated[str, typer.Argument(metavar="WORKLOAD", help="The workload's name.")]


def gc(
    context: typer.Context,
    older_than: OlderThan = None,
    keep_last: KeepLast = 1,
    workload: OnlyWorkload = None,
    max_size: MaxSize = None,
    grace: Grace = f"{times.GRACE_S / 3600:g}h",
    dry_run: DryRun = False,
    url: Url = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """Remove what nobody needs any more.

    That is: lists of workloads, and bundles of cache folders, beyond --keep-last; what no kept list names and is older
    than --older-than; objects of writers that were killed; and kernel folders of no bundle. Programs may run beside it:
    what a list names that is not older than --older-than stays for whoever has read it, for as long as --grace says.
    Needs the right to delete.
    """
    from tritonsync.store.retention import Policy

    policy = Policy(
        older_than=None if older_than is None else _seconds(older_than),
        keep_last=keep_last,
        workload=workload,
        max_bytes=None if max_size is None else _bytes(max_size),
        grace=_seconds(grace),
    )
    _collect(context, policy, url, storage_options, timeout, as_json, dry_run=dry_run)


def rm(
    context: typer.Context,
    workload: Name,
    dry_run: DryRun = False,
    url: Url = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """Remove a workload, and what it names and no other workload does. Needs the right to delete."""
    from tritonsync.store.retention import Policy

    policy = Policy(keep_last=0, workload=workload, grace=0.0)
    _collect(context, policy, url, storage_options, timeout, as_json, dry_run=dry_run)


def _collect(
    context: typer.Context,
    policy: Policy,
    url: str | None,
    storage_options: dict[str, Any] | None,
    timeout: float,
    as_json: bool,
    *,
    dry_run: bool,
) -> None:
    from tritonsync.store.catalog import Catalog
    from tritonsync.store.retention import mark
    from tritonsync.store.sweep import sweep

    output = Output(as_json)
    connection = Connection(context, url, storage_options, timeout)
    if not dry_run:
        connection.check_mode("remove anything")
    connection.ask_to_read()
    catalog = Catalog(connection.bucket)
    _check_is_ours(catalog)
    if policy.workload is not None:
        catalog.check_workload(policy.workload)
    plan = mark(catalog, dataclasses.replace(policy, trust=_known_signers(connection)))
    if not dry_run:
        with progress("removing", "bundles") as told:
            swept = sweep(catalog, plan, progress=told)
    else:
        swept = None
    document = {
        "url": connection.bucket.url,
        "dry_run": dry_run,
        "bundles": [place.prefix for place in plan.bundles],
        "leftovers": list(plan.leftovers),
        "folders": list(plan.folders),
        "bytes": plan.bytes if swept is None else swept.bytes,
        "removed": None if swept is None else dataclasses.asdict(swept),
        "unread": [place.prefix for place in plan.unread],
        "strange": [place.prefix for place in plan.strange],
        "kept": {"bundles": plan.kept_bundles, "bytes": plan.kept_bytes},
    }
    if plan.unread and not as_json:
        unread = amount(len(plan.unread), "list")
        complain(f"warning: {unread} cannot be read, so all that no list names stays; `tritonsync verify` says why")
    if plan.strange and not as_json:
        complain(
            f"note: {amount(len(plan.strange), 'list')} of signers that are not known here: each stays until it is too "
            "old; name their keys with TRITONSYNC_TRUSTED_KEYS"
        )
    if swept is None:
        for place in plan.bundles:
            output.say(place.prefix)
        what = f"would remove {amount(len(plan.bundles), 'bundle')}, {amount(len(plan.leftovers), 'leftover object')} "
        what += f"and {amount(len(plan.folders), 'kernel folder')}, {size(plan.bytes)}"
    else:
        what = f"removed {amount(swept.bundles, 'bundle')}, {amount(swept.objects, 'object')}, {size(swept.bytes)}"
        if swept.spared:
            what += f"; spared {amount(swept.spared, 'bundle')} that a new list names"
        if swept.unread:
            what += f"; left {amount(swept.unread, 'bundle')} whose manifest could not be read"
    output.result(
        document,
        f"{what}; {amount(plan.kept_bundles, 'bundle')}, {size(plan.kept_bytes)} stay in {connection.bucket.url}",
    )


def _known_signers(connection: Connection) -> TrustPolicy:
    """Return whose signatures can be checked here: the trusted keys, and this host's own."""
    from tritonsync.store.trust import signer_of, trust_of

    trust, signer = trust_of(connection.settings), signer_of(connection.settings)
    return trust if signer is None else trust.including(signer)


def _check_is_ours(catalog: Catalog) -> None:
    """Remove nothing where a URL that lacks its prefix may lead.

    Raises:
        NotInBucketError: tritonsync has never written there.
        RemoteError: the bucket could not be asked.
    """
    from tritonsync.errors import NotInBucketError
    from tritonsync.format.layout import FORMAT_OBJECT, MAX_FORMAT_BYTES

    bucket = catalog.bucket
    if not catalog.places and bucket.get(FORMAT_OBJECT, limit=MAX_FORMAT_BYTES) is None:
        raise NotInBucketError(
            f"{bucket.url} holds neither a bundle nor {FORMAT_OBJECT}, so nothing in it is tritonsync's to remove",
            url=bucket.url,
            hint="correct the URL, its prefix above all",
        )


def du(
    context: typer.Context,
    by: Annotated[By, typer.Option("--by", help="What to add up by.")] = By.workload,
    url: Url = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """Show how much a bucket holds, by workload, kind or age.

    What two workloads share counts for each of them, and once in the total. Kernel folders are a row of their own.
    """
    from tritonsync.store.catalog import Catalog
    from tritonsync.store.trust import trust_of
    from tritonsync.store.usage import usage

    output = Output(as_json)
    connection = Connection(context, url, storage_options, timeout)
    connection.ask_to_read()
    catalog = Catalog(connection.bucket, trust=trust_of(connection.settings))
    found = usage(catalog, by.value, now=time.time())
    rows = [
        (row.name, f"{row.bundles:,}", size(row.bytes), "" if row.newest_s is None else age(row.newest_s))
        for row in found.rows
    ]
    output.table((by.value.upper(), "BUNDLES", "SIZE", "NEWEST"), rows, dispensable=("NEWEST", "BUNDLES"))
    output.result(
        {"url": connection.bucket.url, **dataclasses.asdict(found)},
        f"{amount(found.bundles, 'bundle')}, {size(found.bytes)} in {connection.bucket.url}",
    )
