"""How far the work is, for a person who watches.

::

    pushing vit ━━━━╺━━━━ 2/3 bundles  81 objects  2.4 MB  1.2 MB/s  3 s left
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from tritonsync.cli.output import age, amount, is_terminal, size
from tritonsync.cli.table import cut

if TYPE_CHECKING:
    from rich.progress import Task
    from rich.text import Text

    from tritonsync.remote.threads import Progress

__all__ = ["Moved", "progress", "standing"]

#: Seconds before a rate says anything.
_SETTLED_S = 0.5
#: Columns of the screen below which there is no room for the bar and the objects.
_NARROW = 80


class Moved(NamedTuple):
    """What went over the line so far; `expected` bytes in all, where that is known."""

    objects: int
    bytes: int
    expected: int | None = None


@contextlib.contextmanager
def progress(what: str, unit: str, moved: Callable[[], Moved] | None = None) -> Iterator[Progress]:
    """Show how far the work inside the block is, if a person watches.

    Args:
        what: is done.
        unit: what is counted, in the plural.
        moved: asked several times a second.
    """
    if not is_terminal(sys.stderr):
        yield lambda _done, _all: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.text import Text

    console = Console(stderr=True)
    is_narrow = console.width < _NARROW

    class Standing(ProgressColumn):
        def render(self, task: Task) -> Text:
            done, total = int(task.completed), None if task.total is None else int(task.total)
            line = standing(
                done, total, unit, moved() if moved is not None else None, task.elapsed or 0.0, is_narrow=is_narrow
            )
            return Text(line, no_wrap=True)

    label = TextColumn(cut(what, 16 if is_narrow else 24), markup=False)
    columns = (SpinnerColumn(), label, *(() if is_narrow else (BarColumn(bar_width=10),)), Standing())
    # Lines that are printed meanwhile go above the bar: rich puts itself in the place of sys.stderr.
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def standing(
    done: int, total: int | None, unit: str, moved: Moved | None, elapsed: float, *, is_narrow: bool = False
) -> str:
    """Say how far the work is: `2/3 bundles  81 objects  2.4 MB  1.2 MB/s  3 s left`.

    The time that is left is reckoned by bytes where it is known how many there will be, else by what is done.

    Args:
        done: of `total`, in `unit`.
        total: None: not known yet.
        unit: what is counted, in the plural.
        moved: what went over the line.
        elapsed: seconds.
        is_narrow: whether there is room for little.
    """
    parts = [] if total is None else [f"{done}/{total}" if is_narrow else f"{done}/{total} {unit}"]
    share = done / total if total else 0.0
    if moved is not None:
        if not is_narrow:
            parts.append(amount(moved.objects, "object"))
        parts.append(size(moved.bytes))
        if elapsed > _SETTLED_S and moved.bytes:
            parts.append(f"{size(int(moved.bytes / elapsed))}/s")
        if moved.expected:
            share = min(moved.bytes / moved.expected, 1.0)
    if share > 0 and elapsed > _SETTLED_S:
        parts.append(f"{age(elapsed / share - elapsed)} left")
    return ("  " if not is_narrow else " ").join(parts)
