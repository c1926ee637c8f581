"""The command line: parses, calls, prints. It may not compute anything.

::

    app.py       the program: its commands, and what becomes of errors
    options.py   options that several commands have, and what is opened with them
    ahead.py     the first request, sent before the rest is imported
    output.py    text and JSON
    table.py     tables, as the screen is wide
    progress.py  how far the work is
    explain.py   why something was compiled or is not served, in lines
    transfer.py (push, pull), folders.py (their --bundle), look.py (ls, show), verify.py, doctor.py,
    retention.py (du, gc, rm), why.py, stats.py, bench.py, run.py, keygen.py, demo.py
                 the commands

Imports: errors, times, redaction, settings, messages, _version, format, local, remote, store, sync, watch, demo.
"""

import contextlib
import io
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that `sys.argv` asks for, and exit with one of the codes that `--help` lists."""
    arguments = sys.argv[1:]
    if arguments in (["version"], ["--version"]):  # as `app.version` prints it, without importing what parses arguments
        from tritonsync._version import __version__

        print(f"tritonsync {__version__}")
        return
    from tritonsync.cli.output import warnings_as_lines

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a workload may have any name, and a terminal any encoding
    try:
        with warnings_as_lines():
            _run(arguments)
    except KeyboardInterrupt:  # before the command has begun
        from tritonsync.cli.output import complain

        complain("interrupted before anything was done")
        os._exit(130)


def _run(arguments: list[str]) -> None:
    from tritonsync.cli import ahead
    from tritonsync.errors import SettingsError
    from tritonsync.messages import set_level
    from tritonsync.settings import from_variable

    with contextlib.suppress(SettingsError):  # the command says so
        set_level(from_variable("log"))
    ahead.send(arguments)
    from tritonsync.cli.app import INTERRUPTED, app

    try:
        app()
    except SystemExit as exc:
        if exc.code == INTERRUPTED:
            # Python would wait for the requests in flight; what they leave behind is what a killed process would.
            if sys.stdout is not None:
                sys.stdout.flush()
            os._exit(INTERRUPTED)
        raise
