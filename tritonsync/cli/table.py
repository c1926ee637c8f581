"""Tables: as plain text, and for a person's screen as it is wide."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

__all__ = ["cut", "drawn", "fitted", "plain"]

#: Characters of the column that is cut which are always shown: enough to tell keys apart and to give to `show`.
_SHORTEST = 12
#: Characters between two columns, and at both edges together, as `drawn` has them.
_GAP, _EDGES = 3, 2

Row = Sequence[str]


def cut(text: str, room: int) -> str:
    """Return a text of at most so many characters, with its middle left out."""
    if len(text) <= room:
        return text
    tail = (room - 1) // 3
    return f"{text[: room - 1 - tail]}…{text[len(text) - tail :]}"


def fitted(
    headers: Row, rows: Sequence[Row], width: int, *, cuttable: str, dispensable: Sequence[str]
) -> tuple[Row, list[Row]]:
    """Return the table as it fits a screen: one column cut in the middle, then without its least telling columns.

    Args:
        headers: of the columns.
        rows: with one text a column.
        width: of the screen.
        cuttable: the column that may be cut.
        dispensable: columns that a narrow screen goes without, the least telling first.
    """
    kept = list(range(len(headers)))
    key = headers.index(cuttable)
    shortest = min(_SHORTEST, max((len(row[key]) for row in (headers, *rows)), default=0))

    def missing() -> int:
        """Return how many characters the table is too wide for, with its one column as short as may be."""
        widths = [max(len(row[column]) for row in (headers, *rows)) for column in kept if column != key]
        return sum(widths) + _GAP * (len(kept) - 1) + _EDGES + shortest - width

    for name in dispensable:
        if missing() > 0 and headers.index(name) in kept:
            kept.remove(headers.index(name))
    room = shortest + max(-missing(), 0)
    shown = [[cut(row[column], room) if column == key else row[column] for column in kept] for row in rows]
    return [headers[column] for column in kept], list(shown)


def _is_right(headers: Row, rows: Sequence[Row]) -> list[bool]:
    return [
        all(row[column][:1].isdigit() or row[column] in ("", "-") for row in rows) for column in range(len(headers))
    ]


def plain(headers: Row, rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table without a frame; columns of numbers are aligned right."""
    right = _is_right(headers, rows)
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]
    return [
        "  ".join(
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (headers, *rows)
    ]


def drawn(headers: Row, rows: Sequence[Row]) -> None:
    """Print a table on a screen."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header, is_right in zip(headers, _is_right(headers, rows), strict=True):
        table.add_column(header, justify="right" if is_right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=shutil.get_terminal_size().columns).print(table)
