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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.faultproxy import FaultProxy
from tests.servers import Place, run_rclone

ROOT = Path(__file__).parents[2]
WORKLOADS = "tests/gpu/workloads.py"
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
    """

    state: Path
    place: Place
    device: str
    tiny: bool
    timeout: float = 300.0

    @property
    def program(self) -> Path:
        """A copy of tritonsync and the workloads that every user can read."""
        return self.state / "program"

    def environ(self, cache: Path, prefix: str | None) -> dict[str, str]:
        """Return the environment of a worker; without a prefix, tritonsync is not there."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        environ |= {
            "TORCHINDUCTOR_CACHE_DIR": str(cache),
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(self.program),
        }
        if self.device == "cpu":
            environ["TORCHINDUCTOR_VEC_ISA_OK"] = "1"
        if prefix is not None:
            environ |= {
                **self.place.environment,
                # What was there already may be how our own dependencies are found.
                "PYTHONPATH": os.pathsep.join(
                    [str(self.site()), str(self.program), *filter(None, [os.environ.get("PYTHONPATH")])]
                ),
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
        command = [
            sys.executable,
            str(self.program / WORKLOADS),
            workload,
            "--device",
            self.device,
            *map(str, arguments),
        ]
        if self.tiny:
            command.append("--tiny")
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
        lines = [line for line in out.splitlines() if line.startswith("{")]
        if not lines:
            return {"failed": f"exit {process.returncode}: {err[-1500:]}"}
        result: dict[str, Any] = json.loads(lines[-1])
        result["exit_code"] = process.returncode
        result["said"] = [line for line in err.splitlines() if "tritonsync" in line][-3:]
        if watched and report.exists():
            seen = json.loads(report.read_text())
            result |= {name: seen[name] for name in ("warm", "reasons", "counts", "precompiled")}
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
    with run_rclone(buckets) as server, FaultProxy(server.endpoint, latency=latency) as proxy:
        place = server.at("bucket", "gpu", endpoint=proxy.url)
        yield World(state, place, device, tiny)
