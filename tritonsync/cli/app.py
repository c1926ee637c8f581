"""The program `tritonsync`. What a command needs is imported when it runs: `--help` and `version` start fast."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from tritonsync._version import __version__
from tritonsync.cli import bench, demo, doctor, keygen, look, retention, run, stats, transfer, verify, why
from tritonsync.cli.options import Json
from tritonsync.cli.output import Output, complain, warnings_as_lines
from tritonsync.errors import TritonSyncError

__all__ = ["INTERRUPTED", "app"]

#: Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130


class _Commands(TyperGroup):
    """Ends a command that failed with one line on stderr, and without a traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer brings its own copy of click
        with warnings_as_lines():
            try:
                return super().invoke(ctx)
            except TritonSyncError as exc:
                complain(str(exc))
                raise typer.Exit(1) from exc
            except (typer.Exit, typer.Abort):
                raise
            except BrokenPipeError:
                raise  # whoever read the output has seen enough
            except (OSError, RuntimeError, UnicodeError) as exc:
                # What the user gave: a folder that cannot be entered, a home that is none, a name that is no text.
                complain(f"{type(exc).__name__}: {exc}")
                raise typer.Exit(1) from exc
            except KeyboardInterrupt as exc:
                complain("interrupted; what was written so far is whole, and the next run finishes the rest")
                raise typer.Exit(INTERRUPTED) from exc


app = typer.Typer(
    name="tritonsync",
    cls=_Commands,
    help="Compile Triton kernels once, reuse them on every machine: a remote cache in your own bucket.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    demo.demo,
    doctor.doctor,
    transfer.push,
    transfer.pull,
    look.ls,
    look.show,
    verify.verify,
    why.why,
    retention.du,
    retention.gc,
    retention.rm,
    stats.stats,
    keygen.keygen,
    bench.bench,
):
    app.command()(command)
app.command(context_settings=run.RUN_SETTINGS)(run.run)


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    Output(as_json).result({"version": __version__}, f"tritonsync {__version__}")
