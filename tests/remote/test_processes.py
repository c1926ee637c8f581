"""Whole processes: what a program sees that lacks something, forks, is killed, races another, or ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faultproxy import FaultProxy, hang
from tests.servers import LIMIT, Place, Server, take_engine
from tritonsync.errors import MissingExtraError, RemoteError
from tritonsync.remote.bucket import Bucket


def run_child(
    code: str, environment: Mapping[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a Python program that treats warnings as we do."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GOOGLE_"))}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**inherited, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.parametrize(("url", "module", "extra"), [("s3://b/p", "s3fs", "s3"), ("gs://b/p", "gcsfs", "gcs")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(url: str, module: str, extra: str) -> None:
    """Without s3fs or gcsfs the first verb says what to type."""
    child = run_child(
        f"""
        import sys
        sys.modules[{module!r}] = None
        from tritonsync.errors import MissingExtraError
        from tritonsync.remote.bucket import Bucket
        bucket = Bucket({url!r})
        try:
            bucket.get("a", limit=9)
        except MissingExtraError as exc:
            print(exc)
        """
    )
    assert f"pip install 'tritonsync[{extra}]'" in child.stdout, child.stderr


def test_any_other_package_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """For filesystems that have no extra, fsspec's own advice is passed on."""
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(MissingExtraError, match="adlfs"):
        Bucket("az://container/prefix").get("a", limit=LIMIT)


def test_no_credentials_are_said_to_be_missing(moto_server: Server, tmp_path: Path) -> None:
    """An S3 user who set nothing is told what to set."""
    place = moto_server.place()
    child = run_child(
        f"""
        from tritonsync.errors import AccessDeniedError
        from tritonsync.remote.bucket import Bucket
        try:
            Bucket({place.url!r}).get("a", limit=9)
        except AccessDeniedError as exc:
            print(exc)
        """,
        {"AWS_ENDPOINT_URL": place.endpoint, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)},
    )
    assert "no credentials" in child.stdout, child.stderr
    assert "AWS_PROFILE" in child.stdout


@pytest.mark.parametrize(("scheme", "engine"), [("s3", "s3fs"), ("s3", "obstore"), ("gs", "s3fs")])
def test_a_program_ends_at_once_after_a_silent_server(
    scheme: str, engine: str, moto_server: Server, fakegcs_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread and no exit handler of ours waits for an answer that never comes."""
    take_engine(engine, monkeypatch)
    server = moto_server if scheme == "s3" else fakegcs_server
    with FaultProxy(server.endpoint) as proxy:
        place = server.place(endpoint=proxy.url)
        proxy.fail(hang(), times=1000)
        child = run_child(
            f"""
            import threading, time
            from tritonsync.errors import RemoteTimeoutError
            from tritonsync.remote.bucket import Bucket
            bucket = Bucket({place.url!r}, storage_options={dict(place.options)!r})
            for call in (lambda: bucket.get("a", limit=9, timeout=1.5), lambda: bucket.create("a", b"x", timeout=0.3)):
                try:
                    call()
                except RemoteTimeoutError:
                    print("cut")
            found = bucket.get_many({{str(n): 9 for n in range(8)}}, timeout=0.3)
            print({{type(error).__name__ for error in found.values()}})
            threading.Thread(target=bucket.get, args=("b",), kwargs={{"limit": 9}}, daemon=True).start()
            time.sleep(0.2)
            print(time.time())
            """,
            timeout=30,
        )
        ended = time.time()
    lines = child.stdout.split("\n")
    assert lines[:3] == ["cut", "cut", "{'RemoteTimeoutError'}"], child.stderr
    assert ended - float(lines[3]) < 5
    assert child.returncode == 0


@pytest.mark.parametrize("kind", ["folder", "s3_place", "s3_place obstore", "gcs_place"])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")  # Python 3.12 warns of any fork with threads
def test_a_forked_child_uses_a_bucket_that_was_in_use(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked while sixteen threads are asking, children ask on their own; the parent goes on."""
    kind, _, engine = kind.partition(" ")
    take_engine(engine or "s3fs", monkeypatch)
    place = Place(str(tmp_path / "b"), {}, "", {}, "") if kind == "folder" else request.getfixturevalue(kind)
    bucket = Bucket(place.url, storage_options=place.options)
    bucket.create("shared", b"parent")
    stop = threading.Event()

    def ask() -> int:
        count = 0
        while not stop.is_set():
            assert bucket.get("shared", limit=LIMIT) == b"parent"
            count += 1
            stop.wait(0.01)
        return count

    with bucket, ThreadPoolExecutor(16) as threads:
        asking = [threads.submit(ask) for _ in range(16)]
        children = []
        for number in range(4):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    # What a compile worker would do; it leaves without running exit handlers.
                    right = bucket.get("shared", limit=LIMIT, timeout=30) == b"parent"
                    right &= bucket.create(f"child/{number}", b"child", timeout=30)
                    status = 0 if right and bucket.stats.requests >= 2 else 2
                finally:
                    os._exit(status)
            children.append(pid)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        stop.set()
        assert all(future.result() > 0 for future in asking)
        assert statuses == [0, 0, 0, 0]
        assert len(bucket.list("child/")) == 4


RACER = """
import sys
from pathlib import Path
from tritonsync.remote.bucket import Bucket

url, me, rounds = sys.argv[1:]
bucket = Bucket(url)
for number in range(int(rounds)):
    print("ready", flush=True)
    sys.stdin.readline()
    print(bucket.create(f"round/{number}", me.encode() * 1000), flush=True)
"""


def test_one_of_two_local_writers_wins(tmp_path: Path) -> None:
    """In 200 rounds of two processes exactly one creates, and its bytes are there whole."""
    rounds = 200
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "b"), me, str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for me in "AB"
    ]
    try:
        for number in range(rounds):
            for racer in racers:
                assert racer.stdout is not None
                assert racer.stdout.readline() == "ready\n"
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write("\n")
                racer.stdin.flush()
            won = [racer.stdout.readline() == "True\n" for racer in racers if racer.stdout is not None]
            assert won.count(True) == 1
            winner = b"A" if won[0] else b"B"
            assert (tmp_path / "b" / "round" / str(number)).read_bytes() == winner * 1000
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert sorted(path.name for path in (tmp_path / "b" / "round").iterdir()) == sorted(map(str, range(rounds)))


KILLED = """
import os, signal, sys
from tritonsync.remote.bucket import Bucket

def killed(descriptor):
    os.ftruncate(descriptor, 500)
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = killed
Bucket(sys.argv[1]).create("a/object", b"x" * 1000)
"""


def test_a_killed_local_writer_leaves_no_object(tmp_path: Path) -> None:
    """What it had written is neither found nor listed, does not stop the next writer, and is removed one day."""
    folder = tmp_path / "b"
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)], check=False, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert child.returncode == -signal.SIGKILL
    (left,) = (folder / "a").iterdir()
    assert left.stat().st_size == 500
    bucket = Bucket(str(folder))
    assert bucket.get("a/object", limit=LIMIT) is None
    assert bucket.list("") == {}
    assert bucket.create("a/object", b"whole")
    assert left.exists()
    os.utime(left, (time.time() - 7200,) * 2)
    bucket.create("a/other", b"x")
    assert not left.exists()
    assert set(bucket.list("")) == {"a/object", "a/other"}


def test_a_folder_without_hard_links_is_written_by_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """exFAT and some network mounts have no links; no such mount can be had here, so the call is refused instead."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    bucket = Bucket(str(tmp_path))
    assert bucket.create("a/object", b"first")
    assert not bucket.create("a/object", b"second")
    assert bucket.get("a/object", limit=LIMIT) == b"first"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["object"]


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """What cannot be written is not repeated, and nothing is left behind."""
    resource = pytest.importorskip("resource", reason="no limits on this system")
    bucket = Bucket(str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RemoteError, match="too large"):
            bucket.create("a/object", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert bucket.stats.requests == 1
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_folder_of_somebody_else_is_read_only() -> None:
    """The owner and mode of a folder are what rights are elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        bucket = Bucket(folder)
        assert bucket.get("a", limit=LIMIT) is None  # imports what the child may not be able to read
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)  # root may write everywhere
                status = 0 if bucket.probe() == "read-only" else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        Path(folder).chmod(0o755)
