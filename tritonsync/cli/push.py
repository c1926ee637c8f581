"""`tritonsync push`."""

from __future__ import annotations

import dataclasses
import time

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
from tritonsync.cli.output import Output, amount, size
from tritonsync.errors import LocalCacheError

__all__ = ["push"]


def push(
    context: typer.Context,
    url: Url = None,
    workload: Workload = None,
    inductor_dir: InductorDir = None,
    triton_dir: TritonDir = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Publish this host's compiled kernels and graphs.

    Everything in the cache folders, and a workload that lists it. What the bucket has already is not sent again. When
    the command returns, everything is in the bucket.
    """
    from tritonsync.local import inductordir, tritondir
    from tritonsync.sync.environment import environment_of_folder
    from tritonsync.sync.push import push as push_caches

    output = Output(as_json)
    connection = Connection(context, url, storage_options, timeout)
    name = connection.workload(workload)
    caches, kernels = local_caches(connection.settings, inductor_dir, triton_dir)
    if not any(inductordir.values(caches.inductor)) and not any(tritondir.scan(kernels)):
        raise LocalCacheError(
            f"nothing to push: {caches.inductor} holds no compiled graphs, and {kernels} no kernels; run the program "
            "first, or name the folders with --inductor-dir and --triton-dir"
        )
    store = connection.store(environment_of_folder(kernels))
    started = time.perf_counter()
    connection.ask_to_write()
    with output.progress(f"pushing {name}", "bundles") as progress:
        pushed = push_caches(store, caches, kernels, name, progress=progress)
    seconds = round(time.perf_counter() - started, 3)
    requests = connection.bucket.stats.requests
    output.result(
        {
            "url": connection.bucket.url,
            "workload": name,
            "inductor_dir": str(caches.inductor),
            "triton_dir": str(kernels),
            **dataclasses.asdict(pushed),
            "requests": requests,
            "seconds": seconds,
        },
        f"pushed {name} to {connection.bucket.url}: {amount(pushed.kernels, 'kernel')} ({pushed.kernels_new} new), "
        f"{amount(pushed.bundles, 'bundle')} ({pushed.bundles_new} new), {size(pushed.bytes_uploaded)} in "
        f"{amount(pushed.objects_created, 'object')}, {amount(requests, 'request')}, {seconds:.1f} s\n"
        f"from {caches.inductor} and {kernels}",
    )
