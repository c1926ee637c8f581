"""`tritonsync pull`."""

from __future__ import annotations

import dataclasses
import time
from enum import Enum
from typing import Annotated

import typer

from tritonsync.cli.options import (
    DEFAULT_TIMEOUT_S,
    Connection,
    InductorDir,
    Json,
    StorageOptions,
    Timeout,
    TritonDir,
    Url,
    Workload,
    local_caches,
)
from tritonsync.cli.output import Output, amount, complain, size
from tritonsync.settings import VARIABLES

__all__ = ["pull"]

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


def pull(
    context: typer.Context,
    url: Url = None,
    workload: Workload = None,
    inductor_dir: InductorDir = None,
    triton_dir: TritonDir = None,
    files: Files = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Fetch a workload into this host's cache folders.

    PyTorch and Triton start warm from them. What is there already is not fetched again.
    """
    from tritonsync.sync.pull import pull as pull_workload

    output = Output(as_json)
    connection = Connection(context, url, storage_options, timeout)
    name = connection.workload(workload)
    caches, kernels = local_caches(connection.settings, inductor_dir, triton_dir)
    store = connection.store()
    wanted = connection.settings.files if files is None else files.value
    started = time.perf_counter()
    connection.ask_to_read()
    with output.progress(f"pulling {name}", "bundles") as progress:
        pulled = pull_workload(store, caches, name, files=wanted, progress=progress)
    seconds = round(time.perf_counter() - started, 3)
    requests = connection.bucket.stats.requests
    same_path = pulled.written_at == str(caches.inductor)
    output.result(
        {
            "url": connection.bucket.url,
            "workload": name,
            "inductor_dir": str(caches.inductor),
            "triton_dir": str(kernels),
            **dataclasses.asdict(pulled),
            "same_path": same_path,
            "requests": requests,
            "seconds": seconds,
        },
        f"pulled {name} from {connection.bucket.url}: {amount(pulled.kernels, 'kernel')} ({pulled.kernels_emitted} "
        f"written, {pulled.kernels_present} present), {amount(pulled.bundles, 'bundle')}, "
        f"{size(pulled.bytes_downloaded)}, {amount(requests, 'request')}, {seconds:.1f} s\n"
        f"into {caches.inductor} and {kernels}",
    )
    if pulled.conflicts:
        complain(
            f"warning: {amount(pulled.conflicts, 'kernel')} left alone, because this host has or is making another "
            "build; graphs that need the one in the bucket compile again"
        )
    if pulled.missing:
        more = ", ..." if len(pulled.missing) > _SHOWN else ""
        complain(
            f"warning: {amount(len(pulled.missing), 'bundle')} of the workload could not be had: "
            f"{', '.join(pulled.missing[:_SHOWN])}{more}"
        )
    if not same_path and pulled.bundles > 1:
        complain(
            f"note: the workload was published from cache folder {pulled.written_at}, and this is {caches.inductor}; "
            "without tritonsync, a program looks autotune results up where its graphs were compiled, and is fully warm "
            "only there"
        )
    if pulled.missing and not pulled.kernels and pulled.bundles <= 1:
        raise typer.Exit(1)
