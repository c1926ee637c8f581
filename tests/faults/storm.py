"""Writers, readers, `verify`, `gc` and programs of torch on one bucket whose server makes mistakes; some are killed.

Everything runs as a user runs it: commands and programs in processes of their own. What is counted must be zero, but
for the waits, which stay below their limits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faultproxy import Draw, Fault, FaultProxy, Request, answer, at_random, drop, flip, hang, late, trickle
from tests.plugins.conftest import ROOT, entry_points
from tests.raw import RawBucket
from tests.servers import Place, Server
from tritonsync.local import triton_cache
from tritonsync.store.catalog import Catalog
from tritonsync.store.verify import verify

__all__ = ["Counted", "Storm", "table"]

WRITERS, READERS = 8, 16
#: The share of requests that something happens to.
SHARE = 0.05
#: For one request of a command, repetitions included; and for the whole command, on a machine with much to do.
TIMEOUT_S, COMMAND_S = 90.0, 400.0
#: What a program may lose in all.
BUDGET_S = 8.0
#: The share of commands that are killed.
KILLED = 0.15

FAULTS: tuple[Callable[[random.Random], Fault], ...] = (
    lambda _: answer(500, b"oops"),
    lambda _: answer(503, b"slow down"),
    lambda _: drop(),
    lambda rng: drop(after=rng.randrange(1, 2000)),
    lambda rng: flip(rng.randrange(1 << 30)),
    lambda rng: late(rng.uniform(0.5, 2.0)),
    lambda _: trickle(0.01),
    lambda _: hang(),
)


@dataclasses.dataclass
class Counted:
    """What came of a storm."""

    commands: int = 0
    killed: int = 0
    programs: int = 0
    requests: int = 0
    faults: int = 0
    wrong_bytes: int = 0
    half_kernels: int = 0
    failed_commands: int = 0
    failed_programs: int = 0
    leftovers: int = 0
    bad_objects: int = 0
    longest_command_s: float = 0.0
    longest_wait_s: float = 0.0
    #: What went wrong, for whoever has to find out.
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def failures(self) -> dict[str, int]:
        """Everything that must be zero."""
        names = ("wrong_bytes", "half_kernels", "failed_commands", "failed_programs", "leftovers", "bad_objects")
        return {name: getattr(self, name) for name in names}


def table(rows: dict[str, Counted]) -> str:
    """Return what was counted, one column a storm."""
    names = [field.name for field in dataclasses.fields(Counted) if field.name != "notes"]
    cells = [["", *rows]] + [
        [name.replace("_", " "), *(f"{getattr(row, name):.1f}".removesuffix(".0") for row in rows.values())]
        for name in names
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(rows) + 1)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


class Storm:
    """One bucket, and everybody who uses it.

    Args:
        server: the object store.
        graphs: an Inductor cache folder that is published and fetched.
        kernels: the same of Triton: `<folder>/<hash>`.
        seed: of everything that is drawn.
    """

    def __init__(self, server: Server, graphs: Path, kernels: Path, seed: int = 0) -> None:
        self.counted = Counted()
        self._server, self._graphs, self._kernels = server, graphs, kernels
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._seed = seed

    def run(self, seconds: float, *, writers: int = WRITERS, readers: int = READERS) -> Counted:
        """Let it rage for so long, then look at what is left of the bucket when all is calm again."""
        with FaultProxy(self._server.endpoint) as proxy, _folder() as folder:
            self._proxy = proxy
            self._place = self._server.place(endpoint=proxy.url)
            self._folder = folder
            self._expected = self._run_program(None, None)
            for name in ("graphs", "kernels"):
                self._push(name)
            proxy.draw = self._mistakes(at_random(SHARE, FAULTS, self._seed))
            self._end = time.monotonic() + seconds
            work = [self._write] * writers + [self._read] * readers + [self._verify, self._collect, self._program]
            threads = [threading.Thread(target=self._until_the_end, args=(each,), daemon=True) for each in work]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(seconds + 2 * COMMAND_S)
            self._count(failed_commands=sum(thread.is_alive() for thread in threads))
            self._count(requests=len(proxy.requests))
            proxy.heal()
            self._look_at_the_bucket()
        return self.counted

    def _mistakes(self, draw: Draw) -> Draw:
        def counting(request: Request) -> Fault | None:
            fault = draw(request)
            if fault is not None:
                self._count(faults=1)
            return fault

        return counting

    def _until_the_end(self, work: Callable[[], None]) -> None:
        while time.monotonic() < self._end:
            try:
                work()
            except Exception as exc:  # noqa: BLE001, PERF203 - whatever it is, it is to be counted
                self._count(failed_commands=1)
                self._note(f"{work.__name__}: {exc!r}")

    # ---- who uses the bucket ----------------------------------------------------------------------------------------

    def _write(self) -> None:
        with self._lock:
            name = self._random.choice(("graphs", "kernels"))
        self._push(name, may_be_killed=True)

    def _push(self, name: str, *, may_be_killed: bool = False) -> None:
        self._command("push", *self._caches(name, None), "--workload", name, may_be_killed=may_be_killed)

    def _read(self) -> None:
        with self._lock:
            name = self._random.choice(("graphs", "kernels"))
        with _folder(self._folder) as here:
            arguments = self._caches(name, here)
            was_killed = self._command("pull", *arguments, "--workload", name, may_be_killed=True)
            self._compare(name, here, was_killed=was_killed)
            if was_killed and time.monotonic() < self._end:
                self._command("pull", *arguments, "--workload", name)
                self._compare(name, here, was_killed=True)

    def _verify(self) -> None:
        # It reads once, so what was damaged on the way is reported: only that it ends, and how, is looked at.
        self._command("verify", codes=(0, 1))

    def _collect(self) -> None:
        # What killed writers have left; nothing is too old here.
        self._command("gc", "--grace", "6m")

    def _program(self) -> None:
        with _folder(self._folder) as here:
            found = self._run_program(self._place, here)
            self._count(programs=1)
            if found != self._expected:
                self._count(failed_programs=1)
                self._note(f"the program printed {found!r} instead of {self._expected!r}")

    def _run_program(self, place: Place | None, cache: Path | None) -> str:
        """Run a program that compiles two functions; return the numbers that it worked out."""
        with _folder(self._folder) as site:
            info = site / "tritonsync-0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tritonsync\nVersion: 0\n")
            (info / "entry_points.txt").write_text(entry_points())
            environ = self._environ()
            environ |= {
                "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
                "TORCHINDUCTOR_CACHE_DIR": str(cache or site / "cache"),
                "TORCHINDUCTOR_COMPILE_THREADS": "1",
                "TORCHINDUCTOR_VEC_ISA_OK": "1",
                "OMP_NUM_THREADS": "1",
            }
            if place is not None:
                environ |= {"TRITONSYNC_URL": place.url, "TRITONSYNC_BUDGET_S": f"{BUDGET_S:g}", **place.environment}
            command = [sys.executable, str(ROOT / "tests/programs/torch_compile_once.py")]
            done = subprocess.run(
                command, env=environ, capture_output=True, text=True, check=False, timeout=2 * COMMAND_S
            )
        if done.returncode or (place is not None and "Traceback" in done.stderr):
            self._count(failed_programs=1)
            self._note(done.stderr[-2000:])
        for waited in re.findall(r"waited ([0-9.]+) s", done.stderr):
            with self._lock:
                self.counted.longest_wait_s = max(self.counted.longest_wait_s, float(waited))
        return "".join(re.findall(r'"sum": [-0-9.]+', done.stdout))

    # ---- commands ---------------------------------------------------------------------------------------------------

    def _caches(self, name: str, here: Path | None) -> list[str]:
        if name == "graphs":
            return ["--inductor-dir", str(here or self._graphs)]
        triton, none = here / "triton" if here else self._kernels, (here or self._folder) / "none"
        none.mkdir(exist_ok=True)
        return ["--triton-dir", str(triton), "--inductor-dir", str(none)]

    def _environ(self) -> dict[str, str]:
        foreign = ("AWS_", "TRITONSYNC_", "TORCH", "TRITON_")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return environ | {"PYTHONPATH": str(ROOT)}

    def _command(self, *arguments: str, may_be_killed: bool = False, codes: tuple[int, ...] = (0,)) -> bool:
        """Run a command; return whether it was killed while it was at work."""
        line = [sys.executable, "-m", "tritonsync", *arguments]
        line += ["--url", self._place.url, "--timeout", f"{TIMEOUT_S:g}"]
        with self._lock:
            kill_after = self._random.uniform(0.5, 8.0) if may_be_killed and self._random.random() < KILLED else None
            how = self._random.choice((signal.SIGKILL, signal.SIGTERM))
        began = time.monotonic()
        environ = self._environ() | dict(self._place.environment)
        with subprocess.Popen(line, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
            try:
                _, error = child.communicate(timeout=kill_after or COMMAND_S)
            except subprocess.TimeoutExpired:
                child.send_signal(how if kill_after else signal.SIGKILL)
                _, error = child.communicate()
                if kill_after is None:
                    self._note(f"{arguments[0]} hung: {error[-500:]}")
                    self._count(failed_commands=1)
        took = time.monotonic() - began
        was_killed = child.returncode < 0
        self._count(commands=1, killed=int(was_killed))
        with self._lock:
            self.counted.longest_command_s = max(self.counted.longest_command_s, took)
        if not was_killed and (child.returncode not in codes or "Traceback" in error):
            self._count(failed_commands=1)
            self._note(f"{arguments[0]} ended with {child.returncode}: {error[-1500:]}")
        return was_killed

    # ---- what is counted --------------------------------------------------------------------------------------------

    def _compare(self, name: str, here: Path, *, was_killed: bool) -> None:
        """Compare a cache that was pulled, or was being pulled, with the one that was pushed."""
        source, copy = (
            (self._graphs / "triton" / "0", here / "triton" / "0")
            if name == "graphs"
            else (self._kernels, here / "triton")
        )
        for folder in copy.iterdir() if copy.is_dir() else ():
            if folder.name.startswith("tmp."):
                # Of a killed process, and swept when it is an hour old.
                self._count(leftovers=int(not was_killed))
                continue
            original = triton_cache.collect(source / folder.name, None)
            found = triton_cache.collect(folder, None)
            names = {path.name for path in folder.iterdir()}
            if found is None or names != {path.name for path in (source / folder.name).iterdir()}:
                self._count(half_kernels=1)
                self._note(f"half a kernel: {folder.name}: {sorted(names)}")
            elif original != found:
                self._count(wrong_bytes=1)
                self._note(f"wrong bytes: {folder.name}")
        for kind in ("fxgraph", "aotautograd"):
            originals = {path.name: path for path in (self._graphs / kind).rglob("*") if path.is_file()}
            for path in (here / kind).rglob("*"):
                if path.is_file() and path.read_bytes() != originals[path.name].read_bytes():
                    self._count(wrong_bytes=1)
                    self._note(f"wrong bytes: {path.name}")

    def _look_at_the_bucket(self) -> None:
        """Publish once more what killed writers left half done, and read every object."""
        for name in ("graphs", "kernels"):
            self._push(name)
        with RawBucket(self._place.url, self._place.options) as raw:
            found = verify(Catalog(raw.bucket()))
            self._count(bad_objects=len(found.bad))
            for problem in found.bad:
                self._note(f"{problem.name} {problem.what}")

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, value in more.items():
                setattr(self.counted, name, getattr(self.counted, name) + value)

    def _note(self, text: str) -> None:
        with self._lock:
            self.counted.notes.append(text)


@contextlib.contextmanager
def _folder(parent: Path | None = None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="storm-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
