"""What a process counted, for a fleet's own monitoring: a Prometheus text file, JSON lines, OpenTelemetry meters.

A `.prom` file is for the textfile collector of the Prometheus node exporter: its counters grow over all processes of
the host that write to it. Any other file gets one JSON line a process. Where the program has loaded the OpenTelemetry
API itself, its meters are fed as well; whether anything is exported is up to the SDK that the program has set up.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tritonsync import times
from tritonsync._version import __version__
from tritonsync.local.files import (
    append_to_file,
    check_owner,
    disk_errors,
    host_lock,
    read_file,
    replace_file,
    temporary_path,
)

__all__ = ["feed_meters", "measured", "read_metrics", "write_metrics"]

#: Field of the counters -> what it is; all of them only grow.
_MEANINGS = {
    "hits": "Lookups that were served from the bucket.",
    "local_hits": "Lookups that were served from what the host had already.",
    "misses": "Lookups that were not served.",
    "kernels_fetched": "Kernel folders written from the bucket.",
    "kernels_compiled": "Kernels that were compiled here.",
    "conflicts": "Kernels whose folder on this host holds another build.",
    "published": "Bundles written to the bucket.",
    "dropped": "Uploads given up.",
    "waited_seconds": "Seconds that programs waited for the bucket.",
    "saved_seconds": "Seconds of compilation that the hits stand for, about.",
    "own_seconds": "Seconds spent in tritonsync on threads of programs, waiting included.",
    "requests": "Requests to the bucket.",
    "bytes_down": "Content of the objects that were read.",
    "bytes_up": "Content of the objects that were created.",
    "objects_created": "Objects that did not exist before.",
}
#: No counter comes near, and a sum of any number of smaller ones is a float.
_ENDLESS = 1e300
#: Of a `.prom` file; tens of thousands of counters.
_MAX_BYTES = 4 << 20
_LINE = re.compile(r"tritonsync_(\w+)_total\{workload=\"((?:[^\"\\]|\\.)*)\"\} (\S+)")


def measured(found: Mapping[str, float]) -> dict[str, float]:
    """Return what a session and its bucket counted, by the names that are exported."""
    renamed = {name.replace("_s", "_seconds") if name.endswith("_s") else name: value for name, value in found.items()}
    return {name: renamed[name] for name in _MEANINGS if name in renamed}


def write_metrics(path: str, workload: str, values: Mapping[str, float]) -> None:
    """Add what this process counted to a file; see the module's docstring.

    Args:
        path: of the file; its folder has to be there.
        workload: the label of a `.prom` file.
        values: from `measured`.

    Raises:
        LocalCacheError: the file cannot be written.
    """
    with disk_errors("write the metrics", path):
        if path.endswith(".prom"):
            check_owner(Path(path).parent, "TRITONSYNC_METRICS")
            with host_lock(Path(path).parent, path, timeout=times.METRICS_LOCK_S):
                _write_prometheus(path, workload, values)
            return
        line = {"time": round(time.time(), 3), "pid": os.getpid(), "tritonsync": __version__, "workload": workload}
        data = json.dumps({**line, **values}).encode() + b"\n"
        append_to_file(path, data, "TRITONSYNC_METRICS")


def _write_prometheus(path: str, workload: str, values: Mapping[str, float]) -> None:
    try:
        totals = _totals(read_file(path, _MAX_BYTES).decode(errors="replace"))
    except FileNotFoundError:
        totals = {}
    label = workload.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    for name, value in values.items():
        totals[name, label] = totals.get((name, label), 0.0) + value
    lines = []
    for name, meaning in _MEANINGS.items():
        rows = sorted((label, value) for (found, label), value in totals.items() if found == name)
        if rows:
            lines += [f"# HELP tritonsync_{name}_total {meaning}", f"# TYPE tritonsync_{name}_total counter"]
            lines += [f'tritonsync_{name}_total{{workload="{label}"}} {value:.17g}' for label, value in rows]
    replace_file(path, ("\n".join(lines) + "\n").encode(), temporary_path(str(Path(path).parent)))


def _totals(text: str) -> dict[tuple[str, str], float]:
    """Return the counters of a `.prom` file by name and label, as it stands there."""
    totals = {}
    for name, label, value in _LINE.findall(text):
        with contextlib.suppress(ValueError):  # somebody has edited the file
            if _is_count(number := float(value)):
                totals[name, label] = number
    return totals


def _is_count(value: object) -> bool:
    """Whether it can be added up: neither endless nor NaN, nor above what a float holds."""
    return isinstance(value, (int, float)) and abs(value) < _ENDLESS


def read_metrics(path: Path) -> dict[str, dict[str, float]]:
    """Return what a file holds, added up by workload; of JSON lines `processes` too.

    A line that is cut off, or counts what cannot be added up, is skipped.

    Raises:
        LocalCacheError: it cannot be read.
    """
    with disk_errors("read the metrics", path):
        text = path.read_text(encoding="utf-8", errors="replace")
    found: dict[str, dict[str, float]] = {}
    if path.suffix == ".prom":
        for (name, label), value in _totals(text).items():
            found.setdefault(re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], label), {})[name] = value
        return found
    for line in text.splitlines():
        try:
            row = json.loads(line)
            workload = str(row["workload"])
            counted = {name: row[name] for name in _MEANINGS if name in row}
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if not all(map(_is_count, counted.values())):
            continue
        sums = found.setdefault(workload, {})
        for name, value in {"processes": 1, **counted}.items():
            sums[name] = sums.get(name, 0) + value
    return found


def feed_meters(workload: str, values: Mapping[str, float]) -> None:
    """Add what was counted to the meters of OpenTelemetry, if the program uses it."""
    metrics = sys.modules.get("opentelemetry.metrics")
    if metrics is None:
        return
    meter = metrics.get_meter("tritonsync", __version__)
    for name, value in values.items():
        unit = "s" if name.endswith("_seconds") else "By" if name.startswith("bytes_") else "1"
        counter = meter.create_counter(f"tritonsync.{name.removesuffix('_seconds')}", unit, _MEANINGS[name])
        counter.add(value, {"tritonsync.workload": workload})
