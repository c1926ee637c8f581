"""`tritonsync demo`."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tritonsync import times
from tritonsync.cli.options import Connection, Json, StorageOptions, Timeout, Url
from tritonsync.cli.output import Output

__all__ = ["demo"]

#: As many as `tritonsync/demo/kernels.py` can make.
MAX_KERNELS = 192

Kernels = Annotated[int, typer.Option("--kernels", min=1, max=MAX_KERNELS, metavar="N", help="How many to compile.")]


def demo(
    context: typer.Context,
    url: Url = None,
    kernels: Kernels = 12,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """Compile, push and pull kernels, and see them reused.

    Compiles kernels with Triton, pushes them, pulls them into an empty cache at another path, and lets Triton say
    whether it takes every one from there. Needs no GPU. Without a bucket a temporary folder is used; in a bucket the
    kernels stay.
    """
    from tritonsync.demo import demo as run_demo

    output = Output(as_json)
    with tempfile.TemporaryDirectory(prefix="tritonsync-demo-") as folder:
        connection = Connection(context, url, storage_options, timeout, otherwise=str(Path(folder) / "bucket"))
        done = run_demo(
            connection.store,
            Path(folder),
            kernels=kernels,
            report=lambda step, what, seconds: output.say(f"{step:<8} {seconds:6.2f} s  {what}"),
        )
    ending = "passed: nothing was compiled twice" if done.passed else "failed: see above"
    output.result({"url": connection.bucket.url, **dataclasses.asdict(done), "passed": done.passed}, ending)
    if not done.passed:
        raise typer.Exit(1)
