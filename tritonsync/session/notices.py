"""What a session says: at its start who is trusted, at its end what was counted, to people and to a fleet's monitoring.

One process speaks for a job: neither helpers nor children of multiprocessing nor ranks above 0 print a line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import sys
from collections.abc import Mapping
from typing import Any

from tritonsync.messages import speaker
from tritonsync.remote.bucket import BucketStats
from tritonsync.session.context import Context
from tritonsync.session.counters import Counts, summary
from tritonsync.settings import Settings
from tritonsync.store.trust import notice_of_trust
from tritonsync.watch.metrics import feed_meters, measured, write_metrics
from tritonsync.watch.report import Reporter

__all__ = ["facts_for_report", "say_counts", "say_unused", "say_who_is_trusted"]

log = logging.getLogger(__name__)


def say_who_is_trusted(settings: Settings) -> None:
    """Say, unless there are keys to trust, who can run code in this program."""
    if not _is_quiet(settings) and multiprocessing.parent_process() is None and (notice := notice_of_trust(settings)):
        _print(notice)


def facts_for_report(context: Context, workload: str | None, *, is_off: bool) -> dict[str, Any]:
    """Return what explains, in the report of a watched run, what this process was served and what not."""
    if context.settings.report_dir is None:
        return {}
    facts: dict[str, Any] = {"workload": workload, "off": is_off}
    try:
        host, connection = context.host(), context.connection
        made, rank = host.environment(), host.rank()
        facts |= {name: getattr(made, name) for name in ("torch", "triton", "python", "cuda", "device", "target")}
        facts |= {"cpu": host.cpu(), "rank": None if rank is None else [rank.world, rank.rank]}
        if connection.is_made:
            store = connection.store(0)
            facts |= {"engine": store.bucket.engine.name, "engine_reason": store.bucket.engine.reason}
            facts["published"] = sorted(store.written)
    except Exception as exc:  # noqa: BLE001 - the program ends well, whatever cannot be told
        log.info("the report says less of this process: %s", exc)
    return facts


def say_counts(
    settings: Settings, workload: str | None, counts: Counts, stats: BucketStats, facts: Mapping[str, Any]
) -> None:
    """Say what a process that ends has counted: one line, the metrics, and the report of a watched run.

    Args:
        settings: of the process.
        workload: its name; None: it has none.
        counts: of the session.
        stats: of the bucket.
        facts: of the session, for the report alone.
    """
    counted = {**dataclasses.asdict(counts), **dataclasses.asdict(stats)}
    if settings.report_dir is not None:
        Reporter(settings.report_dir).say("counts", counts=counted, session=dict(facts))
    if counts.is_idle:
        return
    try:
        feed_meters(workload or "", measured(counted))
        if settings.metrics is not None:
            write_metrics(settings.metrics, workload or "", measured(counted))
    except Exception as exc:  # noqa: BLE001 - whatever it is, the program ends well
        log.warning("what this process counted is not exported: %s", exc)
    if not _is_quiet(settings):
        _print(summary(counts, bytes_down=stats.bytes_down, bytes_up=stats.bytes_up))


def say_unused(settings: Settings, line: str | None) -> None:
    """Say what was fetched in vain, and why, if that is so."""
    if line is not None and not _is_quiet(settings):
        _print(line)


def _is_quiet(settings: Settings) -> bool:
    return settings.quiet or settings.rank not in (None, 0)


def _print(line: str) -> None:
    with contextlib.suppress(Exception):  # a closed or broken stderr is no reason to fail
        sys.stderr.write(f"{speaker()}: {line}\n")
        sys.stderr.flush()
