"""A program run under observation: what `tritonsync run` does."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from tritonsync.errors import SettingsError, TritonSyncError
from tritonsync.format.manifest import time_ago
from tritonsync.settings import VARIABLES, Settings
from tritonsync.watch.report import read_reports

__all__ = ["Watched", "watch"]

log = logging.getLogger(__name__)

_FORWARDED = ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2")
#: Signals that a terminal sends to the program itself.
_FROM_TERMINAL = ("SIGINT", "SIGQUIT")


@dataclasses.dataclass(frozen=True)
class Watched:
    """What came of a run.

    Attributes:
        exit_code: the program's own; 128 and the number where a signal ended it.
        processes: those that had the plugin, compile workers included.
        graphs: keys of the graphs that Inductor compiled.
        kernels: names and hashes of the kernels that Triton compiled.
        benchmarked: names of the kernels that were timed.
        unwatched: modules that could not be watched.
        precompiled: functions under precompile: each with its `name`, its `outcome`, and the `reason` for it. The
            outcomes: `used`, a result of an earlier run; `restored and not used`; `refused`, which was another
            function's or another program's; `left out` and `incomplete`, which is not published; `published`.
        counts: counters of all sessions, added up.
        sessions: what each session told of itself, see `facts_for_report` of session/notices.py.
        compiled: each graph and kernel that was compiled, as it was reported, and the facts of its process.
        started: when, as manifests state times.
        published: prefixes of the bundles that its processes have written.
    """

    exit_code: int
    processes: int
    graphs: tuple[str, ...]
    kernels: tuple[str, ...]
    benchmarked: tuple[str, ...]
    unwatched: tuple[str, ...]
    precompiled: tuple[dict[str, str], ...]
    counts: dict[str, float]
    sessions: tuple[dict[str, Any], ...] = ()
    compiled: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = ()
    started: str = ""
    published: frozenset[str] = frozenset()

    @property
    def is_warm(self) -> bool:
        """Whether the run was seen, and compiled and benchmarked nothing."""
        return bool(self.processes) and not (self.graphs or self.kernels or self.benchmarked or self.unwatched)

    def reasons(self) -> Iterator[str]:
        """Say, a line each, why it was not warm."""
        if not self.processes:
            yield "no process of the run loaded tritonsync, so nothing is known of it"
        yield from (f"{name} could not be watched" for name in self.unwatched)
        yield from (f"graph {name} was compiled" for name in self.graphs)
        yield from (f"kernel {name} was compiled" for name in self.kernels)
        yield from (f"kernel {name} was benchmarked" for name in self.benchmarked)


def watch(
    command: Sequence[str], settings: Settings, *, precompile: bool = False, keep_stdout: bool = False
) -> Watched:
    """Run a program with the plugin on, and see what it compiles, in all of its processes.

    The program has our standard streams. Signals are passed on to it.

    Args:
        command: the program and its arguments.
        settings: whose bucket, mode and workload it gets; the rest it takes from the environment itself.
        precompile: whether it runs with what Dynamo made of its functions as well.
        keep_stdout: whether our standard output is not for the program: what it prints goes to the error output.

    Raises:
        SettingsError: the settings turn tritonsync off.
        TritonSyncError: the program cannot be started.
    """
    if not settings.is_active or settings.url is None:
        raise SettingsError(
            f"nothing to run with: set {VARIABLES['url'][0]}, and {VARIABLES['mode'][0]} to other than off"
        )
    # A child that outlives the program may write a report while the folder is removed.
    with tempfile.TemporaryDirectory(prefix="tritonsync-run-", ignore_cleanup_errors=True) as folder:
        # torch loads the plugin by its own mechanism, which can be turned off; without torch, Triton does.
        by_default = {"TRITON_CACHE_MANAGER": "tritonsync.plugins.triton:TritonSyncCacheManager"}
        added = {"TRITONSYNC_URL": settings.url, "TRITONSYNC_REPORT_DIR": folder, "TORCH_DEVICE_BACKEND_AUTOLOAD": "1"}
        added[VARIABLES["mode"][0]] = settings.mode
        if settings.workload is not None:
            added[VARIABLES["workload"][0]] = settings.workload
        if precompile:
            added[VARIABLES["precompile"][0]] = "1"
        started = time_ago(0)
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command
                list(command), env={**by_default, **os.environ, **added}, stdout=2 if keep_stdout else None
            )
        except OSError as exc:
            raise TritonSyncError(f"{command[0]} cannot be started: {exc.strerror or exc}") from exc
        with _passing_on_signals(process):
            code = process.wait()
        exit_code = 128 - code if code < 0 else code
        try:
            return _summary(exit_code, read_reports(Path(folder)), started)
        except Exception as exc:  # noqa: BLE001 - anything can be written there, and the program's exit code is kept
            log.warning("what the run reported cannot be read: %s: %s", type(exc).__name__, exc)
            return _summary(exit_code, [], started)


def _summary(exit_code: int, reports: list[list[dict[str, Any]]], started: str = "") -> Watched:
    events = [event for report in reports for event in report]

    def named(kind: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str(event.get("name")) for event in events if event.get("event") == kind))

    counts: dict[str, float] = {}
    for event in events:
        if event.get("event") == "counts":
            for name, value in event["counts"].items():
                counts[name] = round(counts.get(name, 0) + value, 6)
    kernels = [f"{event.get('name')} ({event.get('hash')})" for event in events if event.get("event") == "kernel"]
    return Watched(
        exit_code=exit_code,
        processes=sum(any(event.get("event") == "process" for event in report) for report in reports),
        graphs=named("graph"),
        kernels=tuple(dict.fromkeys(kernels)),
        benchmarked=named("benchmark"),
        unwatched=named("blind"),
        precompiled=tuple(_precompiled(events)),
        counts=counts,
        sessions=tuple(_sessions(events)),
        compiled=tuple(_compiled(reports)),
        started=started,
        published=frozenset(prefix for facts in _sessions(events) for prefix in facts.get("published", ())),
    )


def _sessions(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for event in events:
        if event.get("event") == "counts" and event.get("session"):
            yield event["session"]


def _compiled(reports: list[list[dict[str, Any]]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each graph and kernel once; a process that says nothing of itself is taken for one like the first."""
    all_facts = [next(_sessions(report), {}) for report in reports]
    first = next(filter(None, all_facts), {})
    seen: set[tuple[str, str]] = set()
    for report, facts in zip(reports, all_facts, strict=True):
        for event in report:
            name = str(event.get("hash") or event.get("key") or len(seen))
            if event.get("event") in ("graph", "kernel") and (str(event["event"]), name) not in seen:
                seen.add((str(event["event"]), name))
                yield event, facts or first


def _precompiled(events: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield what became of each function; one that was restored and then used was used."""
    told = [event for event in events if event.get("event") == "precompile"]
    used = {event.get("name") for event in told if event.get("outcome") == "used"}
    for event in told:
        name, outcome = str(event.get("name")), str(event.get("outcome"))
        if outcome == "restored":
            if name in used:
                continue
            outcome = "restored and not used"
        yield {"name": name, "outcome": outcome, "reason": str(event.get("reason", ""))}


@contextlib.contextmanager
def _passing_on_signals(process: subprocess.Popen[bytes]) -> Iterator[None]:
    in_terminal = os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp() if hasattr(os, "tcgetpgrp") else False

    def handle(number: int, _frame: FrameType | None) -> None:
        if not (in_terminal and signal.Signals(number).name in _FROM_TERMINAL):
            process.send_signal(number)

    numbers = [getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
