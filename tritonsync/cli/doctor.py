"""`tritonsync doctor`."""

from __future__ import annotations

import dataclasses

import typer

from tritonsync import times
from tritonsync.cli.options import Connection, InductorDir, Json, StorageOptions, Timeout, TritonDir, Url, local_caches
from tritonsync.cli.output import Output, amount

__all__ = ["doctor"]


def doctor(
    context: typer.Context,
    url: Url = None,
    inductor_dir: InductorDir = None,
    triton_dir: TritonDir = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.DOCTOR_S,
    as_json: Json = False,
) -> None:
    """Look at settings, versions, the bucket and the folders, and say what to do.

    Each line is ok, warn or fail; exits with 1 if one is fail. Publishes nothing.
    """
    from tritonsync.settings import Settings, environment
    from tritonsync.sync.doctor import diagnose

    output = Output(as_json)
    settings = Settings.from_env(url=url, storage_options=storage_options)
    caches, kernels = local_caches(settings, inductor_dir, triton_dir)
    findings = []
    for finding in diagnose(
        settings,
        environment(),
        caches,
        kernels,
        lambda: Connection(context, url, storage_options, timeout).bucket,
    ):
        findings.append(finding)
        output.say(f"{finding.status:<4}  {finding.area:<10}  {finding.what}")
        if finding.todo:
            output.say(f"{'':<18}-> {finding.todo}")
    counts = {status: sum(finding.status == status for finding in findings) for status in ("ok", "warn", "fail")}
    output.result(
        {**counts, "findings": [dataclasses.asdict(finding) for finding in findings]},
        f"{counts['ok']} ok, {amount(counts['warn'], 'warning')}, {amount(counts['fail'], 'failure')}",
    )
    if counts["fail"]:
        raise typer.Exit(1)
