"""`tritonsync stats`: what the workers of a fleet have counted, added up from the files that they left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritonsync.cli.options import Json
from tritonsync.cli.output import Output, amount, size
from tritonsync.settings import VARIABLES

__all__ = ["stats"]

#: Columns that a narrow screen goes without, the least telling first.
_DISPENSABLE = ("UP", "PROCESSES", "WAITED", "DOWN", "SAVED", "FETCHED", "COMPILED")

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...", help=f"Files that workers wrote with {VARIABLES['metrics'][0]}: .prom or JSON lines."
    ),
]


def stats(files: Files, as_json: Json = False) -> None:
    """Add up what workers have counted, by workload."""
    from tritonsync.watch.metrics import read_metrics

    output = Output(as_json)
    sums: dict[str, dict[str, float]] = {}
    for path in files:
        for workload, counted in read_metrics(path).items():
            total = sums.setdefault(workload, {})
            for name, value in counted.items():
                total[name] = total.get(name, 0) + value
    headers = ("WORKLOAD", "PROCESSES", "HITS", "MISSES", "COMPILED", "FETCHED", "DOWN", "UP", "WAITED", "SAVED")
    rows = [_row(workload, counted) for workload, counted in sorted(sums.items())]
    output.table(headers, rows, dispensable=_DISPENSABLE)
    hits = sum(counted.get("hits", 0) + counted.get("local_hits", 0) for counted in sums.values())
    lookups = hits + sum(counted.get("misses", 0) for counted in sums.values())
    rate = f", {hits / lookups:.0%} of {amount(int(lookups), 'lookup')} were hits" if lookups else ""
    output.result(
        {"files": [str(path) for path in files], "workloads": sums},
        f"{amount(len(sums), 'workload')} in {amount(len(files), 'file')}{rate}",
    )


def _row(workload: str, counted: dict[str, float]) -> tuple[str, ...]:
    def number(name: str) -> str:
        return f"{int(counted.get(name, 0)):,}"

    return (
        workload or "(no name)",
        number("processes") if "processes" in counted else "",
        f"{int(counted.get('hits', 0) + counted.get('local_hits', 0)):,}",
        number("misses"),
        number("kernels_compiled"),
        number("kernels_fetched"),
        size(int(counted.get("bytes_down", 0))),
        size(int(counted.get("bytes_up", 0))),
        f"{counted.get('waited_seconds', 0):.1f} s",
        f"{counted.get('saved_seconds', 0):.0f} s",
    )
