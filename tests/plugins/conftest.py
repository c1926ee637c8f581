"""A worker: a process with an empty cache folder, in a world where tritonsync is installed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.raw import RawBucket
from tests.servers import Place
from tritonsync.watch.report import read_reports

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).with_name("programs.py")
ZYGOTE = ROOT / "tests" / "zygote.py"
FOREIGN = ("AWS_", "TRITONSYNC_", "TORCH", "TRITON_")


@dataclasses.dataclass(frozen=True)
class Done:
    """How a worker ended.

    Attributes:
        code: its exit code; negative: the signal that ended it.
        out: the JSON object that it printed last; empty if it printed none.
        err: all of stderr.
        counts: counters of its sessions, added up.
        events: what its processes reported, but for counters.
    """

    code: int
    out: dict[str, Any]
    err: str
    counts: dict[str, float]
    events: list[dict[str, Any]]

    @property
    def hits(self) -> tuple[int, int]:
        """Hits in the FX and AOTAutograd caches."""
        return self.out["fx_hit"], self.out["aot_hit"]

    @property
    def misses(self) -> tuple[int, int]:
        """Misses there."""
        return self.out["fx_miss"], self.out["aot_miss"]

    @property
    def compiled(self) -> list[str]:
        """Graphs and kernels that were compiled."""
        return [str(event["name"]) for event in self.events if event["event"] in ("graph", "kernel")]


@dataclasses.dataclass(frozen=True)
class Worker:
    """Starts programs, each with a cache folder of its own below `folder`.

    Attributes:
        site: a folder for sys.path by which tritonsync is installed.
        zygote: the socket of the process that programs are forked from; None: each is a fresh interpreter.
    """

    folder: Path
    site: Path
    program: Path = PROGRAMS
    zygote: Path | None = None

    def command(self, *arguments: object) -> list[str]:
        """Return the command that runs a program."""
        python = [] if self.zygote is None else ["-S", "-E", str(ZYGOTE), "run", str(self.zygote)]
        return [sys.executable, *python, str(self.program), *map(str, arguments)]

    def environ(self, bucket: Place | Path | str | None, cache: Path, **variables: str) -> dict[str, str]:
        """Return the environment of a program."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        environ |= {
            "PYTHONPATH": os.pathsep.join([str(self.site), str(ROOT)]),
            "PYTHONWARNINGS": "",
            "TORCHINDUCTOR_CACHE_DIR": str(cache),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TORCHINDUCTOR_VEC_ISA_OK": "1",
            "OMP_NUM_THREADS": "1",
        }
        if isinstance(bucket, Place):
            environ |= {"TRITONSYNC_URL": bucket.url, **bucket.environment}
        elif bucket is not None:
            environ["TRITONSYNC_URL"] = str(bucket)
        return environ | variables

    def start(
        self, *arguments: object, bucket: Place | Path | str | None = None, cache: Path | None = None, **variables: str
    ) -> tuple[subprocess.Popen[str], Path]:
        """Start a program; return it, and the folder that its processes report to."""
        number = len(list(self.folder.iterdir()))
        own = self.folder / str(number)
        reports = own / "reports"
        reports.mkdir(parents=True)
        environ = self.environ(bucket, cache or own / "cache", **variables)
        environ["TRITONSYNC_REPORT_DIR"] = str(reports)
        process = subprocess.Popen(
            self.command(*arguments),
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return process, reports

    def end(self, process: subprocess.Popen[str], reports: Path, *, timeout: float = 120) -> Done:
        """Wait for a program."""
        with process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                pytest.fail(f"the worker hangs: {err[-4000:]}")
        lines = [line for line in out.splitlines() if line.startswith("{")]
        events = [event for report in read_reports(reports) for event in report]
        counts: dict[str, float] = {}
        for event in events:
            for name, value in event.get("counts", {}).items():
                counts[name] = counts.get(name, 0) + value
        others = [event for event in events if event["event"] != "counts"]
        return Done(process.returncode, json.loads(lines[-1]) if lines else {}, err, counts, others)

    def run(
        self,
        *arguments: object,
        bucket: Place | Path | str | None = None,
        cache: Path | None = None,
        code: int = 0,
        **variables: str,
    ) -> Done:
        """Run a program to its end, which must be with this exit code."""
        done = self.end(*self.start(*arguments, bucket=bucket, cache=cache, **variables))
        assert done.code == code, done.err
        return done


def entry_points() -> str:
    """Return the entry points of pyproject.toml as an installer writes them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.findall(r'^\[project\.entry-points\."(.+)"\]\n((?:\w+ = ".+"\n)+)', text, re.MULTILINE)
    assert found
    return "\n".join(f"[{group}]\n{points}" for group, points in found).replace('"', "")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sys.path by which an interpreter sees tritonsync installed, whether it is or not."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "tritonsync-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tritonsync\nVersion: 0\n")
    (info / "entry_points.txt").write_text(entry_points())
    return folder


@pytest.fixture(scope="session")
def fresh_worker(tmp_path_factory: pytest.TempPathFactory, site: Path) -> Worker:
    """Starts programs in fresh interpreters: where it matters that torch is imported, or how processes end."""
    return Worker(tmp_path_factory.mktemp("fresh"), site)


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory, fresh_worker: Worker) -> Iterator[Worker]:
    """Starts programs, forked from a process that has imported torch and is in all else as fresh as another."""
    folder = tmp_path_factory.mktemp("workers")
    socket = tmp_path_factory.mktemp("zygote") / "socket"
    environ = fresh_worker.environ(None, Path("/nonexistent"), TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    command = [sys.executable, str(ZYGOTE), "serve", str(socket)]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while not socket.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield dataclasses.replace(fresh_worker, folder=folder, zygote=socket)


@dataclasses.dataclass(frozen=True)
class Filled:
    """A cache folder or bucket that a first worker filled, and what that worker said."""

    path: Path
    first: Done

    def raw(self) -> RawBucket:
        """The bucket, seen from outside."""
        return RawBucket(str(self.path))


@pytest.fixture(scope="session")
def plain(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """The cache folder of a training step without tritonsync."""
    cache = tmp_path_factory.mktemp("plain")
    return Filled(cache, worker.run("train", cache=cache))


@pytest.fixture(scope="session")
def filled(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """The bucket that a training step filled."""
    bucket = tmp_path_factory.mktemp("filled") / "bucket"
    return Filled(bucket, worker.run("train", bucket=bucket, TRITONSYNC_STRICT="1"))


def keys_of(cache: Path) -> Mapping[str, list[str]]:
    """Return the keys of the graphs in a cache folder."""
    return {
        "aot_autograd": sorted(path.name for path in cache.glob("aotautograd/*")),
        "fx_graph": sorted(path.name for path in cache.glob("fxgraph/*/*")),
    }
