"""Hand-written kernels on a GPU: a second process with empty caches and no C compiler compiles and times nothing.

    python tests/gpu/plain_triton.py [--rounds 7] [--latency 0.02]

Needs an NVIDIA GPU, torch and Triton. The bucket is an S3 server on loopback, so many seconds away. Takes about five
minutes on an H200. Prints what was found, writes it to $OUT/plain_triton.json, and ends with 1 if anything is not as it
should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.faultproxy import FaultProxy
from tests.gpu.pairs import paired_ratio
from tests.servers import run_rclone
from tritonsync.watch.report import read_reports

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("plain_kernels.py")
COMPILERS = ("cc", "gcc", "clang", "c++", "g++", "clang++", "nvcc")


class Machine:
    """Runs the program, each time in a new process, with new cache folders below `folder`."""

    def __init__(self, folder: Path, bucket: dict[str, str]) -> None:
        self.folder, self.bucket = folder, bucket
        self._number = 0
        self._site = _site(folder / "site")
        self._no_compiler = folder / "no-compiler"
        self._no_compiler.mkdir()
        for name in COMPILERS:
            (self._no_compiler / name).write_text("#!/bin/sh\necho no compiler on this machine >&2\nexit 1\n")
            (self._no_compiler / name).chmod(0o755)

    def caches(self) -> Path:
        """Return a new, empty folder for caches."""
        self._number += 1
        return self.folder / f"caches-{self._number}"

    def run(
        self,
        name: str,
        *,
        caches: Path | None = None,
        synced: bool = False,
        compiler: bool = True,
        watched: bool = True,
        **variables: str,
    ) -> dict[str, Any]:
        """Run the program once; return what it said, and, if watched, what all of its processes compiled and timed.

        Args:
            name: `plain` or `model`.
            caches: folder of its caches; None: a new one.
            synced: whether it has the bucket.
            compiler: whether there is a C compiler.
            watched: whether its processes report.
            variables: of its environment.
        """
        caches = caches or self.caches()
        reports = self.folder / f"reports-{self._number}-{time.monotonic_ns()}"
        reports.mkdir()
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("TRITON", "TORCHINDUCTOR_"))}
        environ |= {
            # What was there already may be how our own dependencies are found.
            "PYTHONPATH": os.pathsep.join([str(self._site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "TRITON_HOME": str(caches / "home"),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRITON_CACHE_AUTOTUNING": "1",
        }
        if synced:
            environ |= {**self.bucket, "TRITONSYNC_WORKLOAD": f"kernels-{name}"}
        if watched:
            environ["TRITONSYNC_REPORT_DIR"] = str(reports)
        if not compiler:
            environ |= {"CC": "/bin/false", "PATH": os.pathsep.join([str(self._no_compiler), environ["PATH"]])}
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(PROGRAM), name],
            env=environ | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        said: dict[str, Any] = {"code": done.returncode, "wall_s": round(time.perf_counter() - began, 3)}
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        said |= json.loads(lines[-1]) if lines else {"stderr": done.stderr[-2000:]}
        said["line"] = next((line for line in done.stderr.splitlines() if line.startswith("tritonsync:")), "")
        if watched:
            events = [event for report in read_reports(reports) for event in report]
            for kind in ("graph", "kernel", "benchmark", "blind"):
                said[f"{kind}s"] = sorted({str(event["name"]) for event in events if event["event"] == kind})
        return said


def _site(folder: Path) -> Path:
    """Make a folder for sys.path by which torch finds tritonsync's entry point, installed or not."""
    info = folder / "tritonsync-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tritonsync\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[torch.backends]\ntritonsync = tritonsync.plugins.autoload:activate\n")
    return folder


@contextlib.contextmanager
def bucket_at(latency: float) -> Iterator[dict[str, str]]:
    """Yield the variables that name a bucket so many seconds away."""
    with run_rclone() as server, FaultProxy(server.endpoint, latency=latency) as proxy:
        place = server.place(endpoint=proxy.url, bucket="bucket")
        yield {"TRITONSYNC_URL": place.url, **place.environment}


def check(machine: Machine, name: str) -> tuple[dict[str, Any], list[str]]:
    """Fill the bucket with one process; in a second one, with empty caches and no compiler, nothing may be made."""
    wrong = []
    first = machine.run(name, synced=True)
    if first["code"] != 0 or not all(first.get("right", [False])) or not first["kernels"]:
        wrong.append(f"{name}: the first process did not compile, or got wrong results: {first}")
    second = machine.run(name, synced=True, compiler=False)
    if second["code"] != 0 or not all(second.get("right", [False])):
        wrong.append(f"{name}: the second process failed, or got wrong results: {second}")
    for what in ("graphs", "kernels", "benchmarks", "blinds"):
        if second[what]:
            wrong.append(f"{name}: the second process made {what}: {second[what]}")
    if second.get("compiled"):
        wrong.append(f"{name}: Triton says that the second process compiled {second['compiled']}")
    control = machine.run(name, compiler=False)
    if name == "plain" and control["code"] == 0:
        wrong.append(f"{name}: without tritonsync and without a compiler it ran all the same; the test says nothing")
    return {"first": first, "second": second, "without_compiler_or_tritonsync": control["code"]}, wrong


def fill(machine: Machine) -> tuple[dict[str, Any], list[str]]:
    """Fill the bucket with one process."""
    first = machine.run("plain", synced=True)
    right = first["code"] == 0 and all(first.get("right", [False]))
    return {"first": first}, [] if right else [f"the first process got wrong results: {first}"]


def measure(machine: Machine, rounds: int, until: float) -> dict[str, list[dict[str, Any]]]:
    """Time first launches cold, local-warm and with tritonsync, in turn."""
    warm = machine.caches()
    machine.run("plain", caches=warm, watched=False)
    found: dict[str, list[dict[str, Any]]] = {"cold": [], "local-warm": [], "tritonsync": []}
    for number in range(rounds):
        if time.monotonic() > until:
            break
        turns = list(found)
        for kind in turns[number % 3 :] + turns[: number % 3]:
            caches = warm if kind == "local-warm" else None
            run = machine.run("plain", caches=caches, synced=kind == "tritonsync", watched=False)
            found[kind].append(run)
            print(
                f"{number + 1:>3} {kind:<12} {run.get('launch_s', -1):>7.3f} s, of it ours {run.get('own_s', 0):.3f},"
                f" waited {run.get('waited_s', 0):.3f}; imports {run.get('import_s', -1):.2f},"
                f" process {run['wall_s']:.2f}, right {all(run.get('right', [False]))}",
                flush=True,
            )
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return lines of medians, and of paired ratios with their 95 % intervals."""
    lines = [f"{'first launches':16}{'runs':>5}{'median s':>10}{'min':>8}{'max':>8}{'process s':>11}{'compiled':>9}"]
    for kind, runs in found.items():
        seconds = [run["launch_s"] for run in runs]
        walls = statistics.median(run["wall_s"] for run in runs)
        compiled = max(len(run["compiled"]) for run in runs)
        lines.append(
            f"{kind:16}{len(runs):5}{statistics.median(seconds):10.3f}{min(seconds):8.3f}{max(seconds):8.3f}"
            f"{walls:11.2f}{compiled:9}"
        )
    ours = [run["launch_s"] for run in found["tritonsync"]]
    for kind in ("cold", "local-warm"):
        ratio, low, high = paired_ratio(ours, [run["launch_s"] for run in found[kind]])
        lines.append(f"tritonsync / {kind}: {ratio:.3f} ({low:.3f} to {high:.3f})")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--seconds", type=float, default=330, help="begin no round after so many")
    parser.add_argument("--launches-only", action="store_true", help="time launches, and check nothing else")
    given = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="tritonsync-gpu-"))
    result: dict[str, Any] = {}
    wrong: list[str] = []
    try:
        with bucket_at(given.latency) as variables:
            machine = Machine(folder, variables)
            if given.launches_only:
                result["plain"], wrong = fill(machine)
            for name in () if given.launches_only else ("plain", "model"):
                result[name], more = check(machine, name)
                wrong += more
            if not given.launches_only:
                unset = machine.run("plain", synced=True, TRITON_CACHE_AUTOTUNING="0")
                result["timed_without_TRITON_CACHE_AUTOTUNING"] = unset["benchmarks"]
            found = measure(machine, given.rounds, began + given.seconds)
        made = [run for run in found["tritonsync"] if run.get("compiled") or run.get("timed")]
        if made:
            wrong.append(
                f"{len(made)} of {len(found['tritonsync'])} measured runs compiled or timed something: {made[0]}"
            )
        if len(found["tritonsync"]) < given.rounds:
            wrong.append(f"there was time for {len(found['tritonsync'])} rounds only")
        first = result["plain"]["first"]
        result |= {
            "latency_s": given.latency,
            "rounds": found,
            "wrong": wrong,
            "seconds": round(time.monotonic() - began, 1),
        }
        out = Path(os.environ.get("OUT", "."))
        (out / "plain_triton.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(
            f"{first.get('gpu')}, torch {first.get('torch')}, triton {first.get('triton')}; "
            f"bucket {given.latency * 1000:g} ms away"
        )
        for name in () if given.launches_only else ("plain", "model"):
            one, two = result[name]["first"], result[name]["second"]
            print(
                f"{name}: first  {len(one['kernels'])} kernels, {len(one['graphs'])} graphs, timed {one['benchmarks']}"
            )
            print(
                f"{name}: second {len(two['kernels'])} kernels, {len(two['graphs'])} graphs, timed {two['benchmarks']}"
            )
            print(f"{name}: second {two['line']}")
        if not given.launches_only:
            print(f"timed where Triton keeps no timings: {result['timed_without_TRITON_CACHE_AUTOTUNING']}")
        if all(found.values()) and all(run["code"] == 0 for runs in found.values() for run in runs):
            print("\n".join(table(found)))
        else:
            wrong.append("a timed run failed, see plain_triton.json")
        print(f"{result['seconds']} s in all; " + ("all as it should be" if not wrong else "WRONG:"))
        print("\n".join(wrong))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
