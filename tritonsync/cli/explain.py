"""What is said of graphs and kernels that were compiled, in lines that fit the screen."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tritonsync.cli.output import amount

__all__ = ["cause_lines", "grouped", "stored_lines", "width", "wrapped"]

#: Differences of one graph or bundle that are shown; the rest is in the JSON.
_SHOWN = 8
#: Keys of one group of bundles that are shown.
_KEYS = 3
#: Reasons that are said at the end of a run.
_REASONS = 8
#: Names that are cut are as long as keys; the beginning of one is enough for `why` and `show`.
_LONG = 40
_WORDS = {"fx_graph": "graph", "triton": "kernel"}


def width() -> int:
    """Return the columns of the screen, of 80 where there is none."""
    return max(20, shutil.get_terminal_size().columns)


def wrapped(text: str, indent: str = "", more: str = "") -> str:
    """Return a line, broken where the screen ends; what follows is indented by `more` as well."""
    lines = textwrap.wrap(text, width(), initial_indent=indent, subsequent_indent=indent + more, break_on_hyphens=False)
    return "\n".join(lines) or indent


def cause_lines(why: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is said of one graph or kernel, as a report holds it."""
    word = _WORDS.get(why["kind"], why["kind"])
    key = f" ({why['key']})" if why["key"] and why["key"] != why["name"] else ""
    yield wrapped(f"{word} {why['name']}{key}", more="  ")
    if why["state"] != "differs":
        yield wrapped(why["reason"], "  ", "  ")
    if why["bundle"]:
        made = f", made {why['made']}" if why["made"] else ""
        which = "nearest" if why["state"] == "differs" else "bundle"
        yield wrapped(f"{which}: {'/'.join(why['bundle'].split('/')[1:3])}{made}", "  ", "  ")
    yield from _differences(why["differences"], "  ")
    if why["state"] == "differs" and not why["differences"]:
        yield wrapped("its key differs in what torch and Triton do not tell", "  ", "  ")


def grouped(whys: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield one line for each reason: for the end of a run."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    for why in whys:
        if why["state"] != "of a graph":
            counts[why["kind"], why["reason"]] += 1
            name = why["name"] if len(why["name"]) < _LONG else f"{why['name'][:12]}…"
            first.setdefault((why["kind"], why["reason"]), name)
    for (kind, reason), count in counts.most_common(_REASONS):
        word = _WORDS.get(kind, kind)
        what = f"{word} {first[kind, reason]}" if count == 1 else f"{amount(count, word)}, {first[kind, reason]} first"
        yield f"compiled {what}: {reason}"
    if len(counts) > _REASONS:
        yield f"and {amount(len(counts) - _REASONS, 'more reason')}; `tritonsync why` shows all"


def stored_lines(states: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what keeps bundles from being served, those of one reason together."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for state in states:
        if state["obstacles"]:
            groups.setdefault(str(state["obstacles"]), []).append(state)
    for group in sorted(groups.values(), key=len, reverse=True):
        kinds = Counter(state["kind"] for state in group)
        yield ""
        yield wrapped(f"not served here: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}", more="  ")
        yield from _differences(group[0]["obstacles"], "  ")
        for state in group[:_KEYS]:
            variant = "" if state["variant"] == "default" else f"/{state['variant']}"
            yield wrapped(f"{state['kind']}/{state['key']}{variant}", "  ", "  ")
        if len(group) > _KEYS:
            yield f"  and {len(group) - _KEYS} more"


def _differences(found: Sequence[Mapping[str, Any]], indent: str) -> Iterator[str]:
    for each in found[:_SHOWN]:
        part, here, there = each["part"], each["here"], each["there"]
        if part == "gone":
            yield wrapped("the workload lists it, and the bucket has it no more: expired or removed", indent, "  ")
        elif here is None and there is None:
            yield wrapped(f"{part} {'differ' if part[:1].isdigit() else 'differs'}", indent, "  ")
        elif here is None:
            yield wrapped(f"{part}: {there}", indent, "  ")
        else:
            yield wrapped(part, indent)
            yield wrapped(f"here   {here}", indent + "  ", " " * 7)
            yield wrapped(f"there  {there}", indent + "  ", " " * 7)
    if len(found) > _SHOWN:
        yield f"{indent}and {len(found) - _SHOWN} more, see --json"
