"""`tritonsync push` and `tritonsync pull`."""

from __future__ import annotations

import dataclasses
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritonsync import times
from tritonsync.cli.folders import BundleDir, BundleKey, Bundles, chosen_folders, pull_folders, push_folders
from tritonsync.cli.options import (
    Connection,
    InductorDir,
    Json,
    StorageOptions,
    Timeout,
    TritonDir,
    Url,
    Workload,
    check_given,
    local_caches,
)
from tritonsync.cli.output import Output, amount, complain, size
from tritonsync.cli.progress import Moved, progress
from tritonsync.errors import LocalCacheError
from tritonsync.settings import VARIABLES

if TYPE_CHECKING:
    from tritonsync.sync.caches import LocalCaches
    from tritonsync.sync.pull import Pulled
    from tritonsync.sync.push import Pushed

__all__ = ["pull", "push"]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be moved, and move nothing.")]


def push(
    context: typer.Context,
    url: Url = None,
    workload: Workload = None,
    inductor_dir: InductorDir = None,
    triton_dir: TritonDir = None,
    bundle: Bundles = None,
    bundle_dir: BundleDir = None,
    bundle_key: BundleKey = None,
    dry_run: DryRun = False,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """Publish this host's compiled kernels and graphs.

    Everything in the cache folders, and a workload that lists it. What the bucket has already is not sent again. When
    the command returns, everything is in the bucket.
    """
    from tritonsync.format.workload import checked_path
    from tritonsync.local import inductor_cache, triton_cache
    from tritonsync.sync.environment import environment_of_folder
    from tritonsync.sync.push import push as push_caches

    output = Output(as_json)
    folders = chosen_folders(bundle, bundle_dir, bundle_key, workload)
    connection = Connection(context, url, storage_options, timeout)
    if folders:
        push_folders(connection, output, folders, dry_run=dry_run)
        return
    name = connection.workload(workload)
    check_given(inductor_dir, triton_dir)
    caches, kernels = local_caches(connection.settings, inductor_dir, triton_dir)
    if not any(inductor_cache.values(caches.inductor)) and not any(triton_cache.scan(kernels)):
        raise LocalCacheError(
            f"nothing to push: {caches.inductor} holds no compiled graphs, and {kernels} no kernels",
            path=str(caches.inductor),
            hint="run the program first, or name the folders with --inductor-dir and --triton-dir",
        )
    checked_path(str(caches.inductor))  # before the bucket's format object is written
    store = connection.store(environment_of_folder(kernels))
    started = time.perf_counter()
    if dry_run:
        connection.ask_to_read(new=True)
    else:
        connection.ask_to_write()

    def moved() -> Moved:
        stats = connection.bucket.stats
        return Moved(stats.objects_created, stats.bytes_up)

    with progress(f"pushing {name}", "bundles", None if dry_run else moved) as told:
        pushed = push_caches(store, caches, kernels, name, dry_run=dry_run, progress=told)
    facts = _facts(connection, name, caches, kernels, pushed, time.perf_counter() - started)
    sent = f"{size(pushed.bytes_uploaded)} in {amount(pushed.objects_created, 'object')}"
    output.result(
        {**facts, "dry_run": dry_run},
        f"{'would push' if dry_run else 'pushed'} {name} to {connection.bucket.url}: "
        f"{amount(pushed.kernels, 'kernel')} ({pushed.kernels_new} new), {amount(pushed.bundles, 'bundle')} "
        f"({pushed.bundles_new} new), {f'{size(pushed.bytes_new)} before packing' if dry_run else sent}, "
        f"{amount(facts['requests'], 'request')}, {facts['seconds']:.1f} s\nfrom {caches.inductor} and {kernels}",
    )


def _facts(
    connection: Connection, workload: str, caches: LocalCaches, kernels: Path, counted: Pushed | Pulled, seconds: float
) -> dict[str, Any]:
    """Return what both commands say with --json."""
    return {
        "url": connection.bucket.url,
        "workload": workload,
        "inductor_dir": str(caches.inductor),
        "triton_dir": str(kernels),
        **dataclasses.asdict(counted),
        "requests": connection.bucket.stats.requests,
        "seconds": round(seconds, 3),
    }


#: Keys named in a warning about bundles that could not be had.
_SHOWN = 3


class FileChoice(str, Enum):
    """Which files of a kernel's folder are written."""

    ALL = "all"
    LAUNCH = "launch"


Files = Annotated[
    FileChoice | None,
    typer.Option(
        "--files",
        help=f"Which files of a kernel to write: all, or what a launch needs. [{VARIABLES['files'][0]}, else all]",
        show_default=False,
    ),
]


Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with 1 if anything of the workload is missing, or left alone.")
]


def pull(
    context: typer.Context,
    url: Url = None,
    workload: Workload = None,
    inductor_dir: InductorDir = None,
    triton_dir: TritonDir = None,
    files: Files = None,
    bundle: Bundles = None,
    bundle_dir: BundleDir = None,
    bundle_key: BundleKey = None,
    strict: Strict = False,
    dry_run: DryRun = False,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """Fetch a workload into this host's cache folders.

    PyTorch and Triton start warm from them. What is there already is not fetched again. What cannot be had is a
    warning, and an error if nothing came of the workload, or with --strict.
    """
    from tritonsync.sync.pull import pull as pull_workload

    output = Output(as_json)
    folders = chosen_folders(bundle, bundle_dir, bundle_key, workload)
    connection = Connection(context, url, storage_options, timeout)
    if folders:
        if files is not None:
            raise typer.BadParameter("--files is for kernels, not for --bundle")
        pull_folders(connection, output, folders, strict=strict, dry_run=dry_run)
        return
    name = connection.workload(workload)
    caches, kernels = local_caches(connection.settings, inductor_dir, triton_dir)
    store = connection.store()
    wanted = connection.settings.files if files is None else files.value
    started = time.perf_counter()

    def moved() -> Moved:
        stats = connection.bucket.stats
        return Moved(stats.objects_read, stats.bytes_down)

    with progress(f"pulling {name}", "bundles", None if dry_run else moved) as told:
        pulled = pull_workload(
            store, caches, name, files=wanted, dry_run=dry_run, progress=told, permitted=connection.ask_to_read
        )
    facts = _facts(connection, name, caches, kernels, pulled, time.perf_counter() - started)
    output.result(
        {**facts, "dry_run": dry_run},
        f"{'would pull' if dry_run else 'pulled'} {name} from {connection.bucket.url}: "
        f"{amount(pulled.kernels, 'kernel')} ({pulled.kernels_emitted} {'to write' if dry_run else 'written'}, "
        f"{pulled.kernels_present} present), {amount(pulled.bundles, 'bundle')}, "
        f"{size(pulled.bytes_wanted if dry_run else pulled.bytes_downloaded)}, "
        f"{amount(facts['requests'], 'request')}, {facts['seconds']:.1f} s\ninto {caches.inductor} and {kernels}",
    )
    if pulled.conflicts:
        complain(
            f"warning: {amount(pulled.conflicts, 'kernel')} left alone, because this host has or is making another "
            "build; graphs that need the one in the bucket compile again"
        )
    if pulled.of_ranks:
        complain(
            f"note: {amount(pulled.of_ranks, 'bundle')} of the workload left out: each belongs to one rank of a job, "
            "which fetches its own when it runs with tritonsync"
        )
    if pulled.missing:
        more = ", ..." if len(pulled.missing) > _SHOWN else ""
        complain(
            f"warning: {amount(len(pulled.missing), 'bundle')} of the workload could not be had: "
            f"{', '.join(pulled.missing[:_SHOWN])}{more}"
        )
    if not pulled.same_path and pulled.bundles > 1:
        complain(
            f"note: the workload was published from cache folder {pulled.written_at}, and this is {caches.inductor}; "
            "without tritonsync, a program looks autotune results up where its graphs were compiled, and is fully warm "
            "only there"
        )
    if pulled.missing and (strict or (not pulled.kernels and pulled.bundles <= 1)):
        raise typer.Exit(1)
    if strict and pulled.conflicts:
        raise typer.Exit(1)
