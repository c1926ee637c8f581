"""`tritonsync bench`."""

from __future__ import annotations

import dataclasses

import typer

from tritonsync import times
from tritonsync.cli.options import Connection, Json, StorageOptions, Timeout, Url
from tritonsync.cli.output import Output, amount, complain, size
from tritonsync.cli.progress import progress

__all__ = ["bench"]


def bench(
    context: typer.Context,
    url: Url = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """Measure how fast the bucket is from here.

    Publishes a small sample below a prefix of its own, restores it, and deletes it again. Without the right to write,
    only requests are measured; without the right to delete, says what was left.
    """
    from tritonsync.sync.speed import prefix_for_sample, speed

    output = Output(as_json)
    connection = Connection(context, url, storage_options, timeout)
    sample = f"{connection.bucket.url}/{prefix_for_sample()}"
    with progress("measuring", "steps") as told:
        found = speed(lambda: connection.open(sample), write=connection.settings.may_write, progress=told)
    document = dataclasses.asdict(found)
    document["engine"] = {"name": found.engine.name, "reason": found.engine.reason}
    text = (
        f"{connection.bucket.url} through {found.engine.name} ({found.engine.reason})\n"
        f"first request {found.first * 1000:.0f} ms, then {found.latency * 1000:.1f} ms a request "
        f"(at most {found.latency_worst * 1000:.1f} ms)"
    )
    if found.publish is not None and found.restore is not None:
        text += (
            f"\n{amount(found.kernels, 'kernel')}: published in {found.publish:.2f} s ({size(found.bytes_up)}), "
            f"restored in {found.restore:.2f} s ({size(found.bytes_down)}, {amount(found.requests, 'request')})"
        )
    else:
        text += "\nnothing was published: this identity, or TRITONSYNC_MODE, does not allow it"
    output.result(
        {"url": connection.bucket.url, "sample": sample, **document},
        "\n".join([text, *found.advice]),
    )
    if found.left:
        complain(f"warning: {amount(found.left, 'object')} below {sample} could not be deleted")
