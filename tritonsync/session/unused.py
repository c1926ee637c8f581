"""Restored and not used: what was fetched ahead for a program that then compiled all the same, and why.

The first of these that holds is named: torch's caches are off, the two hosts differ, torch refused what it was offered,
it looks into another folder, or it asked for other keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from tritonsync.format.manifest import Environment, Manifest
from tritonsync.session.context import Host

__all__ = ["Graph", "Lookups", "why_unused"]

log = logging.getLogger(__name__)

#: Kind and key.
Graph = tuple[str, str]

#: Of a manifest's environment, what is part of torch's keys.
_IN_KEYS = ("torch", "triton", "cuda", "device", "machine")


class Lookups(Protocol):
    """What torch asked for, and what it took."""

    @property
    def asked(self) -> frozenset[Graph]:
        """What torch asked for."""

    @property
    def used(self) -> frozenset[Graph]:
        """What torch took."""


def why_unused(
    fetched: Mapping[Graph, tuple[Path, Manifest]], lookups: Lookups, misses: int, host: Callable[[], Host]
) -> str | None:
    """Return one line that says what was fetched ahead in vain, and why; None where there is nothing to say.

    A program that compiled nothing has no use for what it did not get to, and one that used all compiled what is new.

    Args:
        fetched: of each graph the folder of Inductor's that it was put into, and a manifest.
        lookups: of this process.
        misses: how many of them were not served.
        host: the caches of the program.
    """
    left = {graph: known for graph, known in fetched.items() if graph not in lookups.used}
    if not left:
        return None
    try:
        switch = host().switched_off()
        if not misses and switch is None:
            return None
        reason = _reason(left, lookups, host(), switch)
    except Exception as exc:  # noqa: BLE001 - torch may be half gone at the end of a process
        log.debug("why what was fetched ahead is not used cannot be told: %s", exc)
        return None
    return f"{len(left)} of {len(fetched)} graphs that were fetched ahead were not used, and torch compiled: {reason}"


def _reason(left: Mapping[Graph, tuple[Path, Manifest]], lookups: Lookups, host: Host, switch: str | None) -> str:
    if switch is not None:
        return f"its caches are off, by {switch}"
    _, manifest = next(iter(left.values()))
    difference = _difference(manifest.environment, host.environment())
    if difference is not None:
        return difference
    refused = left.keys() & lookups.asked
    if refused:
        return f"it asked for {len(refused)} of them, and the guards of what it was offered do not hold here"
    now = host.caches().inductor
    elsewhere = {folder for folder, _ in left.values()} - {now}
    if elsewhere:
        return f"they are in {min(elsewhere)}, and it looks into {now} now"
    return "it asked for other keys, so the program, its inputs or torch's configuration have changed"


def _difference(theirs: Environment, ours: Environment) -> str | None:
    for name in _IN_KEYS:
        made, here = getattr(theirs, name), getattr(ours, name)
        if made is not None and here is not None and made != here:
            return f"they were made with {name} {made}, and this is {here}"
    return None
