"""The benchmark suite: one command, one table.

    python -m tests.bench [--sizes 10 100 400] [--latencies 0 5 20 80] [--rounds 3] [--json FILE] [--png FILE]

Everything goes through `rclone serve s3` on loopback and a proxy that adds the latency to every round trip. The real
cache (tests/data) is measured at each latency, the same with 30 kernels of no graph and synthetic ones at 20 ms:
restored and published by tritonsync with each of its clients and by the other programs that are installed here, and
verified. Every way is a process of its own, interleaved with the others, and restores into a fresh folder on tmpfs.
What stands in brackets are quartiles. `floor` is what any way has to do: one listing, one GET of the pack, writing the
files, in Python over s3fs.

Requests are counted by the proxy. CPU seconds are those of the whole process for other programs and for `pull`, and
without imports and connection for tritonsync, the floor and s3fs; `contact` is these: the first request of a process.
Memory is the most that the process had.
With --sizes 1000 10000 it takes an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.caches import fixture, synthetic
from tests.bench.programs import Program, other_programs
from tests.bench.restore import COMPILED, TMPFS, SlowProxy, slow_proxy
from tests.servers import Place, Server, run_rclone
from tritonsync.remote.bucket import Bucket
from tritonsync.store import Store
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.push import push

#: Latency at which synthetic caches are measured, in milliseconds.
USUAL_MS = 20
ENGINES = ("obstore", "s3fs") if importlib.util.find_spec("obstore") else ("s3fs",)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run of one way cost."""

    seconds: float
    cpu: float
    requests: int
    peak_mb: float | None = None
    bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """All runs of one way to do one thing."""

    action: str
    cache: str
    kernels: int
    latency_ms: float
    way: str
    costs: tuple[Cost, ...]

    def median(self, field: str) -> float:
        """Return the median of one field of the costs."""
        return statistics.median(getattr(cost, field) or 0 for cost in self.costs)

    def shown(self, field: str, form: str, unit: float = 1) -> str:
        """Return the median as text, a dash where it is not known."""
        return "-" if getattr(self.costs[0], field) is None else format(self.median(field) / unit, form)

    def quartiles(self) -> tuple[float, float]:
        """Return the quartiles of the seconds."""
        seconds = sorted(cost.seconds for cost in self.costs)
        if len(seconds) < 2:
            return seconds[0], seconds[0]
        first, _, third = statistics.quantiles(seconds, method="inclusive")
        return first, third


class FailedError(Exception):
    """A way that did not do what it was to do; of others than tritonsync that is no reason to stop."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One cache in the bucket, seen through one proxy."""

    name: str
    kernels: int
    cache: Path
    server: Server
    proxy: SlowProxy
    latency_ms: float
    scratch: Path

    def place(self, bucket_prefix: str) -> Place:
        """Return a place behind the proxy."""
        return self.server.at("bucket", bucket_prefix, endpoint=self.proxy.url)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 100, 400])
    parser.add_argument("--latencies", type=float, nargs="*", default=[0, 5, 20, 80])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=TMPFS) as folder, contextlib.ExitStack() as stack:
        scratch = Path(folder)
        server = stack.enter_context(run_rclone(scratch / "server"))
        real = fixture(scratch / "real")
        mixed = synthetic(fixture(scratch / "mixed"), 30, real)
        caches = {
            "vit": real,
            "vit and 30": mixed,
            **{f"synthetic {n}": synthetic(scratch / f"made-{n}", n, real) for n in given.sizes},
        }
        for name, cache in caches.items():
            kernels = publish_once(server, name, cache)
            for latency_ms in given.latencies if name == "vit" else [USUAL_MS]:
                with slow_proxy(server, latency_ms) as proxy:
                    case = Case(name, kernels, cache, server, proxy, latency_ms, scratch)
                    for row in measure(case, given.rounds):
                        rows.append(row)
                        print(line(row, rows), flush=True)
    for text in growth(rows):
        print(text)
    if given.json:
        given.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    if given.png:
        draw(rows, given.png)


def publish_once(server: Server, name: str, cache: Path) -> int:
    """Put a cache into the bucket, for all who restore it; return the number of its kernels."""
    place = server.at("bucket", f"ready/{name.replace(' ', '-')}")
    store = Store(Bucket(place.url, storage_options=place.options))
    return push(store, LocalCaches.at(cache), cache / "triton", "bench").kernels


def measure(case: Case, rounds: int) -> Iterator[Row]:
    """Measure all actions of one case; the ways of each are interleaved."""
    ready = case.place(f"ready/{case.name.replace(' ', '-')}")
    ours = [f"tritonsync {engine}" for engine in ENGINES]
    ways = {
        "contact": ours,
        "restore": [*ours, "floor", "s3fs get", *(f"pull {engine}" for engine in ENGINES), *other_programs("restore")],
        "publish": [*ours, "s3fs put", *other_programs("publish")],
        "verify": ours,
    }
    for action, names in ways.items():
        costs: dict[str, list[Cost]] = {name: [] for name in names}
        for number in range(rounds):
            for name in names:
                target = case.scratch / f"{action} {name} {case.latency_ms} {case.name} {number}".replace(" ", "-")
                target.mkdir()
                place = case.place(f"new/{target.name}") if action == "publish" else ready
                try:
                    costs[name].append(run(action, name, case, place, target))
                except FailedError as exc:
                    if name.startswith(("tritonsync", "pull")):
                        raise
                    print(f"{action} by {name} is left out, {exc}", flush=True)
        for name, found in costs.items():
            if found:
                yield Row(action, case.name, case.kernels, case.latency_ms, name, tuple(found))


def run(action: str, way: str, case: Case, place: Place, target: Path) -> Cost:
    """Run one way once, in a process of its own."""
    folder = case.cache if action == "publish" else target
    kind, _, engine = way.partition(" ")
    programs = other_programs(action)
    if way in programs:
        return spawn(programs[way], place, folder, case.proxy)
    if kind == "pull":
        command = [sys.executable, "-m", "tritonsync", "pull", "--url", place.url, "--workload", "bench", "--json"]
        program = Program(lambda _, folder: [*command, "--inductor-dir", str(folder)])
        return spawn(program, place, folder, case.proxy, TRITONSYNC_ENGINE=engine)
    verb = {"floor": "floor", "s3fs": engine}.get(kind, action)
    described = json.dumps(dataclasses.asdict(place))
    case.proxy.requests()
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.one", verb, described, str(folder)],
        env={**os.environ, **COMPILED, "TRITONSYNC_ENGINE": engine if kind == "tritonsync" else "s3fs"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FailedError(f"it failed: {done.stderr[-2000:]}")
    cost: dict[str, Any] = json.loads(done.stdout)
    return Cost(**cost, requests=case.proxy.requests())


def spawn(program: Program, place: Place, folder: Path, proxy: SlowProxy, **variables: str) -> Cost:
    """Run a program and measure it from outside."""
    proxy.requests()
    began = time.perf_counter()
    process = subprocess.Popen(
        program.command(place, folder),
        env={**os.environ, **COMPILED, **place.environment, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise FailedError(f"{program.command(place, folder)} failed: {said[-2000:]}")
    return Cost(took, usage.ru_utime + usage.ru_stime, proxy.requests())


def line(row: Row, rows: list[Row]) -> str:
    """Return one line of the table, after a heading where another thing begins."""
    same = [r for r in rows if (r.action, r.cache, r.latency_ms) == (row.action, row.cache, row.latency_ms)]
    first, third = row.quartiles()
    text = (
        f"{row.way:18}{row.median('seconds'):9.3f} [{first:.3f} {third:.3f}]".ljust(45)
        + f"{same[0].median('seconds') / row.median('seconds'):9.2f}{row.median('cpu'):9.3f}"
        + f"{row.shown('peak_mb', '.0f'):>9}{row.median('requests'):10.0f}{row.shown('bytes', '.2f', 1e6):>9}"
    )
    if len(same) > 1:
        return text
    title = f"{row.action}, {row.cache}, {row.kernels} kernels, {row.latency_ms:g} ms, {len(row.costs)} rounds"
    heading = f"{'way':18}{'seconds':>9} [quartiles]".ljust(45)
    heading += f"{'1st / it':>9}{'CPU s':>9}{'peak MB':>9}{'requests':>10}{'MB':>9}"
    return f"\n{title}\n{heading}\n{text}"


def growth(rows: list[Row]) -> Iterator[str]:
    """Yield, for each thing that tritonsync does, the exponent of its growth with the number of kernels."""
    made = [row for row in rows if row.cache.startswith("synthetic") and row.way.startswith("tritonsync")]
    for action, way in dict.fromkeys((row.action, row.way) for row in made if row.action != "contact"):
        points = [row for row in made if (row.action, row.way) == (action, way)]
        if len(points) > 1:
            found = {field: exponent(points, field) for field in ("seconds", "cpu", "requests")}
            yield f"growth of {action} by {way}: " + ", ".join(f"{name} n^{value:.2f}" for name, value in found.items())


def exponent(rows: list[Row], field: str) -> float:
    """Fit `field = a * kernels ** exponent` by least squares of logarithms."""
    points = [(math.log(row.kernels), math.log(max(row.median(field), 1e-6))) for row in rows]
    x, y = (statistics.fmean(values) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def draw(rows: list[Row], path: Path) -> None:
    """Draw how long each way takes to restore the real cache, over the latency, if matplotlib is here."""
    if importlib.util.find_spec("matplotlib") is None:
        print(f"no {path}: matplotlib is not installed")
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot(
        title="restore of the real cache", xlabel="ms a round trip", ylabel="seconds", yscale="log"
    )
    for way in dict.fromkeys(row.way for row in rows if row.action == "restore"):
        points = [row for row in rows if (row.action, row.cache, row.way) == ("restore", "vit", way)]
        axes.plot([row.latency_ms for row in points], [row.median("seconds") for row in points], marker="o", label=way)
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
