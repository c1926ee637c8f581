"""What a command shows: results on stdout, everything else on stderr.

A terminal gets tables that fit it, anything else plain text without colours. With `--json`, stdout holds exactly
one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from tritonsync.cli.table import Row, drawn, fitted, plain
from tritonsync.redaction import redact, redacted

__all__ = ["Output", "age", "amount", "complain", "is_terminal", "settle", "size", "warnings_as_lines"]


def complain(text: str) -> None:
    """Print one line on stderr; never raises."""
    _print_error(" ".join(text.split()))


def _print_error(text: str) -> None:
    if sys.stderr is not None:  # it is where a service was started without
        with contextlib.suppress(OSError, ValueError):  # full, or closed: there is nobody to tell
            print(f"tritonsync: {_printable(redact(text))}", file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    """Escape what a terminal would obey: a bucket can hold any text."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a person reads it."""
    return stream is not None and stream.isatty()


def settle() -> None:
    """Have all written that was printed; what cannot be is dropped, or Python tries at its end and exits with 120."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # noqa: PERF203
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


class Output:
    """Where a command prints.

    Args:
        as_json: whether `--json` was given.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, text: str = "") -> None:
        """Print a line of text; nothing with `--json`."""
        if not self.as_json:
            print(_printable(redact(text)), flush=True)

    def result(self, data: Mapping[str, Any], text: str) -> None:
        """Print the result: as one JSON object, or as text."""
        print(json.dumps(redacted(data), indent=2) if self.as_json else _printable(redact(text)), flush=True)

    def table(
        self,
        headers: Row,
        rows: Sequence[Row],
        *,
        cuttable: str | None = None,
        dispensable: Sequence[str] = (),
        wide: bool = False,
    ) -> None:
        """Print a table, as it fits the screen where a person looks at one; nothing without rows, or with `--json`.

        Args:
            headers: of the columns.
            rows: with one text a column.
            cuttable: the column that may be cut in its middle; None: the first.
            dispensable: columns that a narrow screen goes without.
            wide: whether it is shown whole, however wide the screen is.
        """
        if self.as_json or not rows:
            return
        rows = [[_printable(redact(cell)) for cell in row] for row in rows]
        if not is_terminal(sys.stdout):
            print("\n".join(plain(headers, rows)))
            return
        if not wide:
            width = shutil.get_terminal_size().columns
            headers, rows = fitted(headers, rows, width, cuttable=cuttable or headers[0], dispensable=dispensable)
        drawn(headers, rows)


def amount(count: int, noun: str) -> str:
    """Return `1 kernel`, `2 kernels`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(count: int) -> str:
    """Return a number of bytes, in decimal units: `512 B`, `13.9 kB`, `23.9 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def age(seconds: float) -> str:
    """Return a time span in its largest unit: `45 s`, `3 h`, `12 d`."""
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= factor:
            return f"{seconds / factor:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # A traceback, which was asked for, keeps its lines.
        show = complain if record.levelno > logging.DEBUG else _print_error
        show(record.getMessage())


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Send warnings of our own loggers to stderr, one line each; and to a person, why the bucket is asked again."""
    logger, remote, handler = logging.getLogger("tritonsync"), logging.getLogger("tritonsync.remote"), _Lines()
    if any(isinstance(other, _Lines) for other in logger.handlers):
        yield  # inside another block
        return
    propagate, level = logger.propagate, remote.level
    logger.addHandler(handler)
    logger.propagate = False
    if is_terminal(sys.stderr):
        remote.setLevel(logging.INFO)
    try:
        yield
    finally:
        remote.setLevel(level)
        logger.propagate = propagate
        logger.removeHandler(handler)
