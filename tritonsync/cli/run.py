"""`tritonsync run`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritonsync.cli.options import Url, Workload
from tritonsync.cli.output import Output, complain
from tritonsync.cli.why import why_compiled
from tritonsync.errors import SettingsError, TritonSyncError
from tritonsync.redaction import redacted, redacted_command
from tritonsync.settings import VARIABLES

if TYPE_CHECKING:
    from tritonsync.settings import Settings
    from tritonsync.watch.run import Watched

__all__ = ["RUN_SETTINGS", "run"]

#: Exit code of a run that had to be warm and was not.
COLD = 3


class Mode(str, Enum):
    """What the program may do with the bucket."""

    READ_WRITE = "read-write"
    READ_ONLY = "read-only"


#: How the command is to be registered: what follows the program's name belongs to the program.
RUN_SETTINGS = {"allow_interspersed_args": False}


def run(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The program and its arguments.")],
    assert_warm: Annotated[
        bool, typer.Option("--assert-warm", help="Exit 3 if a graph or kernel was compiled or benchmarked.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write what was seen as JSON.", show_default=False)
    ] = None,
    precompile: Annotated[
        bool, typer.Option("--precompile", help="Keep what Dynamo makes of functions too; see TRITONSYNC_PRECOMPILE.")
    ] = False,
    url: Url = None,
    mode: Annotated[
        Mode | None,
        typer.Option("--mode", help=f"Whether it may publish. [{VARIABLES['mode'][0]}]", show_default=False),
    ] = None,
    workload: Workload = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print what was seen as one JSON object; what the program prints goes to stderr."),
    ] = False,
) -> None:
    """Run a program with tritonsync, and see what it compiles.

    Looks at all of its processes. Ends with the program's own exit code, or with 3 if it was to be warm and was not.
    What counts is that Inductor generated code, or that Triton compiled or timed a kernel; C++ code of CPU graphs is
    compiled anew by torch on every machine, and does not count. Says in one line each why something was compiled;
    `tritonsync why` shows all of it.
    """
    from tritonsync.cli.explain import grouped
    from tritonsync.local.inductor_cache import default_inductor_dir
    from tritonsync.settings import Settings
    from tritonsync.watch.last_run import keep_report
    from tritonsync.watch.run import watch

    if report is not None:
        _check(report)
    settings = Settings.from_env(url=url, mode=None if mode is None else mode.value, workload=workload)
    watched = watch(command, settings, precompile=precompile, keep_stdout=as_json)
    with _said("what the run compiled cannot be told"):
        document = redacted(_document(command, watched, settings))
        if report is not None:
            with _said(f"--report {report} cannot be written"):
                _write(report, document)
        if as_json:
            with _said("what was seen cannot be printed"):
                Output(as_json).result(document, "")
        for line in grouped(document["why"]):
            complain(line)
        with _said("`tritonsync why` will not know of this run"):
            keep_report(default_inductor_dir(settings.inductor_dir), document)
    if assert_warm and not watched.is_warm:
        for reason in watched.reasons():
            complain(f"not warm: {reason}")
        if watched.exit_code == 0:
            raise typer.Exit(COLD)
    raise typer.Exit(watched.exit_code)


def _check(report: Path) -> None:
    """See that the report can be written, before the program runs for hours.

    Raises:
        SettingsError: it cannot.
    """
    from tritonsync.local.files import is_link

    if not report.parent.is_dir():
        raise SettingsError(f"--report {report}: there is no folder {report.parent}")
    if is_link(report) or (report.exists() and not report.is_file()):  # a report would take its place
        raise SettingsError(f"--report {report}: that is no regular file; name one")
    if not all(os.access(path, os.W_OK) for path in (report.parent, report) if path.exists()):
        raise SettingsError(f"--report {report}: this user may not write it")


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    """Say what failed once the program has ended: its exit code counts for more than what is told of it."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001
        complain(f"{what}: {exc if isinstance(exc, TritonSyncError) else f'{type(exc).__name__}: {exc}'}")


def _write(report: Path, document: dict[str, Any]) -> None:
    """Write a report in the place of an earlier one, whose mode it keeps; a link there is replaced, not followed."""
    from tritonsync.local.files import replace_file, temporary_path

    mode = 0o600  # it tells what the program was given, and where it runs
    if report.is_file() and not report.is_symlink():
        mode = stat.S_IMODE(report.stat().st_mode)
    text = json.dumps(document, indent=2) + "\n"
    replace_file(str(report), text.encode(), temporary_path(str(report.parent)), mode=mode)


def _document(command: list[str], watched: Watched, settings: Settings) -> dict[str, Any]:
    """Return the report: what was seen, in which bucket, and why something was compiled."""
    seen = dataclasses.asdict(watched)
    sessions, *_ = (seen.pop(name) for name in ("sessions", "compiled", "published"))
    facts: dict[str, Any] = next((session for session in sessions if session.get("engine")), {})
    workload = next((session["workload"] for session in sessions if session.get("workload")), settings.workload)
    return {
        **seen,
        "command": redacted_command(command),
        "url": settings.url,
        "engine": {"name": facts["engine"], "reason": facts["engine_reason"]} if facts else None,
        "workload": workload,
        "warm": watched.is_warm,
        "reasons": list(watched.reasons()),
        "why": why_compiled(watched, settings, workload),
    }
