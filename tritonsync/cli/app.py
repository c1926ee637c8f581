"""The program `tritonsync`: its commands, and what becomes of errors.

What a command needs is imported when it runs: `--help` and `version` start fast.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tritonsync._version import __version__
from tritonsync.cli import bench, demo, doctor, keygen, look, retention, run, stats, transfer, verify, why
from tritonsync.cli.options import Json
from tritonsync.cli.output import Output, complain, settle, warnings_as_lines
from tritonsync.errors import TritonSyncError
from tritonsync.redaction import traceback_of
from tritonsync.settings import VARIABLES

__all__ = ["COMMANDS", "INTERRUPTED", "app"]

log = logging.getLogger(__name__)

#: Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130
USAGE = 2
_EXIT_CODES = (
    "Exit codes: 0 done; 1 failed, with one line on stderr, and with --json an object `error` on stdout; 2 wrong "
    "usage; 3 a run that had to be warm was not; 130 interrupted. Otherwise `run` ends with the program's own."
)
#: What JSON says of an error after its kind and its message, and the attribute that holds it; null where none does.
_FACTS = {
    "hint": "hint",
    "url": "url",
    "object": "object_name",
    "path": "path",
    "variable": "variable",
    "workload": "workload",
}
#: The base of all that a parser says about what was typed; typer has none of it under a name of its own.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class _Commands(TyperGroup):
    """Ends a command that failed in one style: one line on stderr, with `--json` an object too, and no traceback."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **more: Any) -> Any:  # type: ignore[override]  # noqa: ANN401
        """Run the command that the arguments ask for, and exit."""
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        run = functools.partial(super().main, given, standalone_mode=False, **more)
        if not standalone_mode:
            return run()
        with warnings_as_lines():
            code = _exit_code(run, given)
            settle()
            sys.exit(code)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer brings its own copy of click
        """Run the command; releases of typer make different things of an interruption, so it gets a name of its own."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as exc:
            raise _InterruptedError from exc


class _InterruptedError(Exception):
    """Ctrl-C."""


def _exit_code(command: Callable[[], Any], arguments: Sequence[str]) -> int:
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments

    def fail(kind: str, message: str, code: int = 1, **facts: str | None) -> int:
        complain(message)
        if "--json" in words:
            document = {"kind": kind, "message": message, **dict.fromkeys(_FACTS), **facts}
            with contextlib.suppress(OSError, ValueError):  # the line and the exit code say it too
                Output(as_json=True).result({"error": document}, "")
        return code

    try:
        code = command()
    except TritonSyncError as exc:
        return fail(type(exc).__name__, str(exc), **{fact: getattr(exc, name) for fact, name in _FACTS.items()})
    except _UsageError as exc:
        path = getattr(getattr(exc, "ctx", None), "command_path", "tritonsync")
        hint = f"see `{path} --help`"
        message = (exc.format_message() if hasattr(exc, "format_message") else str(exc)).rstrip(".")
        return fail("UsageError", f"{message[:1].lower()}{message[1:]}; {hint}", USAGE, hint=hint)
    except SystemExit as exc:
        if not isinstance(exc.__context__, BrokenPipeError):
            raise
        # Whoever read the output has seen enough. What Python still wants to write at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (OSError, RuntimeError, UnicodeError) as exc:
        # What the user gave: a folder that cannot be entered, a home that is none, a name that is no text.
        kind, path = type(exc).__name__, getattr(exc, "filename", None)
        return fail(kind, f"{kind}: {exc}", path=path if isinstance(path, str) else None)
    except (_InterruptedError, typer.Abort):
        message = "interrupted; what was written so far is whole, and the next run finishes the rest"
        return fail("KeyboardInterrupt", message, INTERRUPTED)
    except Exception as exc:  # noqa: BLE001 - a script that reads the JSON is told of bugs as well
        log.debug("where it failed\n%s", traceback_of(exc))
        kind = type(exc).__name__
        return fail(kind, f"{kind}: {exc}; this is a bug, and {VARIABLES['log'][0]}=debug shows where")
    return code if isinstance(code, int) else 0


app = typer.Typer(
    name="tritonsync",
    cls=_Commands,
    help="Compile Triton kernels once, reuse them on every machine: a remote cache in your own bucket.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        Output(as_json=False).say(f"tritonsync {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def _options(version: Version = False) -> None:
    pass


def version(as_json: Json = False) -> None:
    """Print the version."""
    Output(as_json).result({"version": __version__}, f"tritonsync {__version__}")


#: Each command, and an example of it; the README shows the same.
COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (demo.demo, "tritonsync demo --kernels 4"),
    (doctor.doctor, "tritonsync doctor --url s3://my-bucket/kernels"),
    (transfer.push, "tritonsync push --workload vit"),
    (transfer.pull, "tritonsync pull --workload vit --strict"),
    (look.ls, "tritonsync ls --workload vit --sort size"),
    (look.show, "tritonsync show vit"),
    (verify.verify, "tritonsync verify vit"),
    (why.why, "tritonsync why vit"),
    (retention.du, "tritonsync du --by kind"),
    (retention.gc, "tritonsync gc --older-than 90d --dry-run"),
    (retention.rm, "tritonsync rm vit --dry-run"),
    (stats.stats, "tritonsync stats /var/log/tritonsync/*.jsonl"),
    (keygen.keygen, "tritonsync keygen --out keys"),
    (bench.bench, "tritonsync bench --url s3://my-bucket/kernels"),
    (run.run, "tritonsync run --assert-warm -- python train.py"),
    (version, "tritonsync version --json"),
)
for _command, _example in COMMANDS:
    _settings = run.RUN_SETTINGS if _command is run.run else {}
    app.command(epilog=f"Example: {_example}", context_settings=_settings)(_command)
