"""What the measurements run in: an S3 server on loopback behind 20 ms of latency, workers with caches of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faultproxy import FaultProxy
from tests.servers import Place, run_rclone

ROOT = Path(__file__).parents[2]
WORKLOADS = "tests/gpu/workloads.py"
ZYGOTE = "tests/zygote.py"
FOREIGN = ("AWS_", "TRITONSYNC_", "TORCHINDUCTOR_", "TRITON_", "TORCH_")


@dataclasses.dataclass
class World:
    """Runs workers. Everything lies below `state`, which later commands of the same machine find again.

    Attributes:
        state: a folder.
        place: the bucket, seen through the latency proxy; each workload has a prefix of its own.
        device: `cuda` or `cpu`.
        tiny: whether to take the tiny models.
        timeout: seconds that one worker may take.
        zygote: the socket of the process that workers are forked from; None: each is a fresh interpreter.
    """

    state: Path
    place: Place
    device: str
    tiny: bool
    timeout: float = 300.0
    zygote: Path | None = None

    @property
    def program(self) -> Path:
        """A copy of tritonsync and the workloads that every user can read."""
        return self.state / "program"

    def environ(self, cache: Path, prefix: str | None) -> dict[str, str]:
        """Return the environment of a worker; without a prefix it has no bucket, and tritonsync does nothing."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        environ |= {
            "TORCHINDUCTOR_CACHE_DIR": str(cache),
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
            # What was there already may be how our own dependencies are found.
            "PYTHONPATH": os.pathsep.join(
                [str(self.site()), str(self.program), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            # Who asks whether there is a GPU shall not make it unusable after a fork.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        }
        if self.device == "cpu":
            environ["TORCHINDUCTOR_VEC_ISA_OK"] = "1"
        if prefix is not None:
            environ |= {
                **self.place.environment,
                "TRITONSYNC_URL": f"{self.place.url}/{prefix}",
                "TRITONSYNC_WORKLOAD": "measured",
            }
        return environ

    def site(self) -> Path:
        """Return a folder by which an interpreter sees tritonsync installed."""
        info = self.state / "site" / "tritonsync-0.dist-info"
        if not info.exists():
            info.mkdir(parents=True)
            (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tritonsync\nVersion: 0\n")
            (info / "entry_points.txt").write_text(
                "[torch.backends]\ntritonsync = tritonsync.plugins.autoload:activate\n"
            )
        return info.parent

    def cache(self, name: str) -> Path:
        """Return an empty cache folder of this name."""
        folder = self.state / "caches" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def run(
        self,
        workload: str,
        *arguments: object,
        cache: Path,
        prefix: str | None = None,
        watched: bool = False,
        user: int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run one worker, and return what it printed.

        With `watched`, also `warm`, `reasons`, `counts` and `precompiled` of `tritonsync run`; `variables` are added to
        its environment.
        """
        command = self._command(workload, *arguments)
        environ = self.environ(cache, prefix) | dict(variables or {})
        report = cache.parent / f"{cache.name}.report.json"
        if watched:
            report.unlink(missing_ok=True)
            options = ["run", "--assert-warm", "--report", str(report)]
            command = [sys.executable, "-m", "tritonsync", *options, "--", *command]
        if user is not None:
            environ |= {"HOME": str(cache), "TMPDIR": str(cache)}
            report = cache / "report.json"
            command = [str(report) if part.endswith(".report.json") else part for part in command]
        try:
            process = subprocess.Popen(
                command,
                env=environ,
                cwd="/",
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        except PermissionError as exc:
            return {"failed": f"user {user} may not run Python here: {exc}"}
        try:
            out, err = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            return {"failed": f"more than {self.timeout:g} s"}
        finally:
            # Compile workers too, should any be left.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        result = _said(process.returncode, out, err)
        if "failed" not in result and watched and report.exists():
            seen = json.loads(report.read_text())
            result |= {name: seen[name] for name in ("warm", "reasons", "counts", "precompiled")}
        return result

    def gated(
        self,
        workload: str,
        *,
        cache: Path,
        prefix: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Gated:
        """Start a worker that stops before and after its first call; arguments as of `run`."""
        environ = self.environ(cache, prefix) | dict(variables or {})
        return Gated(self._command(workload, "--gated"), environ, cache.parent / f"{cache.name}.err", self.timeout)

    def _command(self, workload: str, *arguments: object) -> list[str]:
        forked = [] if self.zygote is None else ["-S", "-E", str(self.program / ZYGOTE), "run", str(self.zygote)]
        tiny = ["--tiny"] if self.tiny else []
        options = ["--device", self.device, *map(str, arguments), *tiny]
        return [sys.executable, *forked, str(self.program / WORKLOADS), workload, *options]

    @contextlib.contextmanager
    def forking(self, modules: Sequence[str]) -> Iterator[World]:
        """Start a zygote that imports these modules; yield the same world, whose workers are forked from it."""
        socket = self.state / "zygote"
        socket.unlink(missing_ok=True)
        nowhere = self.cache("zygote")
        environ = self.environ(nowhere, None) | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, str(self.program / "tests" / "gpu" / "forked.py"), str(socket), *modules]
        with subprocess.Popen(command, env=environ, cwd="/", stdin=subprocess.PIPE) as process:
            while not socket.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"the zygote could not import {', '.join(modules)}")
                time.sleep(0.05)
            yield dataclasses.replace(self, zygote=socket)


class Gated:
    """A worker that waits for its turn: `until("ready")`, `go()`, `until("called")`, `go()`, `result()`.

    Args:
        command: with its arguments.
        environ: its environment.
        said: the file of what it says on stderr.
        timeout: seconds after which it is killed.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], said: Path, timeout: float) -> None:
        self._said, self._out = said, ""
        with said.open("wb") as err:
            self._process = subprocess.Popen(
                command,
                env=dict(environ),
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                start_new_session=True,
            )
        self._timer = threading.Timer(timeout, self._process.kill)
        self._timer.daemon = True
        self._timer.start()

    def until(self, what: str) -> bool:
        """Wait until it has said this; return whether it did, or has ended."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._out += line
            if line.strip() == what:
                return True
        return False

    def go(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and says so in its result
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Wait for its end, and return what it printed."""
        with contextlib.suppress(BrokenPipeError):
            out, _ = self._process.communicate()
            self._out += out
        self._timer.cancel()
        return _said(self._process.returncode, self._out, self._said.read_text(errors="replace"))


def _said(code: int, out: str, err: str) -> dict[str, Any]:
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if not lines:
        return {"failed": f"exit {code}: {err[-1500:]}"}
    result: dict[str, Any] = json.loads(lines[-1])
    result["exit_code"] = code
    result["said"] = [line for line in err.splitlines() if "tritonsync" in line][-3:]
    return result


@contextlib.contextmanager
def world(state: Path, *, device: str, tiny: bool, latency: float) -> Iterator[World]:
    """Start the server and the proxy, and end them."""
    buckets = state / "buckets"
    buckets.mkdir(parents=True, exist_ok=True)
    program = state / "program"
    shutil.rmtree(program, ignore_errors=True)
    for name in ("tritonsync", "tests/gpu"):
        shutil.copytree(ROOT / name, program / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests/__init__.py", ZYGOTE):
        shutil.copy(ROOT / name, program / name)
    with run_rclone(buckets) as server, FaultProxy(server.endpoint, latency=latency) as proxy:
        place = server.at("bucket", "gpu", endpoint=proxy.url)
        yield World(state, place, device, tiny)
