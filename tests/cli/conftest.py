"""The command line, in this process and in children, with none of the settings of whoever runs the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from tests.faultproxy import FaultProxy
from tests.raw import RawBucket
from tests.servers import Place, Server
from tritonsync.cli.app import app

FOREIGN = ("AWS_", "TRITONSYNC_", "TORCHINDUCTOR_", "TRITON_")


class Ran(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    # Not the cache of whoever runs the tests.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "nobody's cache"))


@pytest.fixture
def run() -> Run:
    """Run a command in this process."""

    def command(*arguments: object, **variables: str) -> Ran:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=variables)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return command


@pytest.fixture
def child() -> Run:
    """Run a command in a child process; `before` is Python that runs there first."""

    def command(*arguments: object, before: str = "", **variables: str) -> Ran:
        program = f"{before}\nfrom tritonsync.cli import main\nmain()"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *(str(argument) for argument in arguments)],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return command


@pytest.fixture
def folder(tmp_path: Path) -> RawBucket:
    """An empty folder as the bucket."""
    (tmp_path / "bucket").mkdir()
    return RawBucket(str(tmp_path / "bucket"))


@pytest.fixture
def vit(run: Run, folder: RawBucket, h200_vit: Path) -> RawBucket:
    """A bucket that holds a real cache as workload `vit`."""
    assert run("push", "--url", folder.url, "--workload", "vit", "--inductor-dir", h200_vit).code == 0
    return folder


@pytest.fixture
def place(moto_server: Server, s3_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A bucket seen through the proxy, with its credentials in the environment."""
    found = moto_server.place(endpoint=s3_proxy.url)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found
