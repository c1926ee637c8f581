"""However a process ends, what it published is whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.plugins.conftest import ROOT, Worker
from tests.raw import RawBucket
from tests.servers import Place, Server
from tritonsync.store.catalog import Catalog
from tritonsync.store.verify import verify

PUBLISH_AND_LEAVE = """
import sys
from pathlib import Path
from tritonsync.session import session
from tritonsync.format.bundle import Bundle, Payload
from tritonsync.settings import Settings

now = session.start(Settings.from_env())
assert "s3fs" not in sys.modules

def publish(key):
    bundle = Bundle(kind="triton", key=key, payloads=(Payload("p", b"data"),))
    now.enqueue_kernel(key, "default", Path("nowhere"), lambda: bundle, is_compiled=True)

publish("K")
"""

#: What Python 3.12 does once a program has begun to end. The last callback that is registered is the first to run.
NO_MORE_THREADS = """
import threading

def refuse(*_args, **_kwargs):
    raise RuntimeError("can't create new thread at interpreter shutdown")

def begin_to_end():
    for name in ("_start_new_thread", "_start_joinable_thread"):  # the second since Python 3.13
        if hasattr(threading, name):
            setattr(threading, name, refuse)

threading._register_atexit(begin_to_end)
"""


def by_name(server: Server) -> Place:
    """A place whose server is named, not numbered: its address is looked up for each connection."""
    return server.place(endpoint=server.endpoint.replace("127.0.0.1", "localhost"))


def run_program(worker: Worker, place: Place | Path, cache: Path, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env=worker.environ(place, cache),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("threads", ["", NO_MORE_THREADS], ids=["threads", "no-more-threads"])
def test_a_program_that_asked_for_nothing_publishes_at_exit(
    worker: Worker, moto_server: Server, tmp_path: Path, threads: str
) -> None:
    """A program that asked for nothing publishes while it ends, to a host that has a name."""
    place = by_name(moto_server)
    done = run_program(worker, place, tmp_path, PUBLISH_AND_LEAVE + threads)
    assert done.returncode == 0, done.stderr
    assert "1 bundle published" in done.stderr
    with RawBucket(place.url, place.options) as raw:
        assert (
            len(raw.names("^bundles/triton/K/.*/pack.tar.zst$")) == len(raw.names("^bundles/triton/K/.*/manifest")) == 1
        )


PUBLISH_FROM_A_THREAD = """
import threading
import time

def serve():
    threading.main_thread().join()
    time.sleep(0.5)
    publish("LATE")
    print("served", flush=True)

threading.Thread(target=serve).start()
"""


def test_threads_that_outlive_the_main_one_publish_too(worker: Worker, tmp_path: Path) -> None:
    """A server that runs in a thread is the program."""
    done = run_program(worker, tmp_path / "bucket", tmp_path, PUBLISH_AND_LEAVE + PUBLISH_FROM_A_THREAD)
    assert (done.returncode, done.stdout) == (0, "served\n")
    assert "2 bundles published" in done.stderr
    assert "went wrong" not in done.stderr


def test_a_failure_at_the_end_takes_nothing_with_it(worker: Worker, tmp_path: Path) -> None:
    """The program's own threads come to their end."""
    broken = "now._flush = None\n"
    done = run_program(worker, tmp_path / "bucket", tmp_path, PUBLISH_AND_LEAVE + broken + PUBLISH_FROM_A_THREAD)
    assert (done.returncode, done.stdout) == (0, "served\n")
    assert "went wrong" in done.stderr


def test_sigterm_may_come_at_any_moment(worker: Worker, tmp_path: Path) -> None:
    """Also while the main thread is inside tritonsync and holds a lock that the flush needs."""
    held = """
import os, signal, time
with now._waits.budget._lock:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)
time.sleep(60)
"""
    done = run_program(worker, tmp_path / "bucket", tmp_path, PUBLISH_AND_LEAVE + held)
    assert done.returncode == -signal.SIGTERM
    assert "1 bundle published" in done.stderr


#: The main thread waits in C for what never comes, and does not come back for a signal either: a lock of its own.
HANG_IN_C = """
import ctypes

lock = ctypes.create_string_buffer(256)
libc = ctypes.CDLL(None)
libc.pthread_mutex_lock(lock)
print("hangs", flush=True)
libc.pthread_mutex_lock(lock)
"""


def test_sigterm_does_not_wait_for_a_main_thread_that_hangs(worker: Worker, tmp_path: Path) -> None:
    """A collective that never returns keeps Python from running its handlers, and nothing from being published."""
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISH_AND_LEAVE + HANG_IN_C],
        env=worker.environ(tmp_path / "bucket", tmp_path),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        process.send_signal(signal.SIGTERM)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGTERM
    assert "1 bundle published" in err


def test_a_programs_own_wakeup_descriptor_stays(worker: Worker, tmp_path: Path) -> None:
    """What asyncio has set is not taken from it; what it sets later takes the place of ours; SIGTERM flushes anyway."""
    program = """
import os, signal, socket, time
theirs, told = socket.socketpair()
theirs.setblocking(False)
if {first}:
    signal.set_wakeup_fd(theirs.fileno())
{publish}
before = signal.set_wakeup_fd(theirs.fileno())
print((before == theirs.fileno()) is {first}, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print(told.recv(1) == bytes([signal.SIGTERM]), flush=True)
time.sleep(60)
"""
    for first in (True, False):
        done = run_program(
            worker, tmp_path / f"{first}", tmp_path, program.format(first=first, publish=PUBLISH_AND_LEAVE)
        )
        assert (done.returncode, done.stdout) == (-signal.SIGTERM, "True\nTrue\n"), done.stderr
        assert "1 bundle published" in done.stderr


HANDLER_OF_ITS_OWN = """
import os, signal, sys, time
from tritonsync import times
times.STUCK_S = 0.2
before, calls = signal.getsignal(signal.SIGTERM), []

def save(*signalled):
    calls.append(signalled)
    if {chains}:
        before(*signalled)

signal.signal(signal.SIGTERM, save)
os.kill(os.getpid(), signal.SIGTERM)
end = time.monotonic() + 1.5
while time.monotonic() < end:
    time.sleep(0.05)
print(len(calls), now._ended, flush=True)
"""


@pytest.mark.parametrize("chains", [False, True], ids=["alone", "calls-ours"])
def test_a_program_that_handles_sigterm_itself_takes_its_time(worker: Worker, tmp_path: Path, chains: bool) -> None:
    """A handler that came after ours is called once, and nothing ends the program while it saves its work.

    Where it calls the handler that it found, what is to be published is flushed at once.
    """
    program = PUBLISH_AND_LEAVE + HANDLER_OF_ITS_OWN.format(chains=chains)
    done = run_program(worker, tmp_path / "bucket", tmp_path, program)
    assert (done.returncode, done.stdout) == (0, f"1 {chains}\n"), done.stderr
    assert "1 bundle published" in done.stderr


def test_a_signal_to_a_child_is_none_to_its_parent(worker: Worker, tmp_path: Path) -> None:
    """Between its fork and its exec a child shares the wakeup descriptor; who wrote to it is what counts."""
    program = """
import os, signal, time
shared = os.dup(signal.set_wakeup_fd(-1))
pid = os.fork()
if pid == 0:
    os.write(shared, bytes([signal.SIGTERM]))
    print(signal.set_wakeup_fd(-1), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
time.sleep(0.5)
print("goes on", flush=True)
"""
    done = run_program(worker, tmp_path / "bucket", tmp_path, PUBLISH_AND_LEAVE + program)
    assert (done.returncode, done.stdout) == (0, "-1\ngoes on\n"), done.stderr


def test_a_forked_child_is_told_to_go_and_goes(worker: Worker, tmp_path: Path) -> None:
    """It has nothing to publish, and its parent may be waiting for it."""
    child = """
import os, signal
print(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, flush=True)
pid = os.fork()
if pid == 0:
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
    done = run_program(worker, tmp_path / "bucket", tmp_path, PUBLISH_AND_LEAVE + child)
    assert done.stdout == "True\nTrue\n"


def test_sigterm_flushes_and_then_ends_the_process(fresh_worker: Worker, moto_server: Server) -> None:
    """A worker that is told to go publishes first, and ends by the signal."""
    place = by_name(moto_server)
    process, reports = fresh_worker.start("train_and_wait", bucket=place)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("{"), process.communicate()
    process.send_signal(signal.SIGTERM)
    done = fresh_worker.end(process, reports)
    assert done.code == -signal.SIGTERM
    with RawBucket(place.url, place.options) as raw:
        manifests = raw.names("/manifest.json$")
        assert [
            len([n for n in manifests if f"/{kind}/" in n]) for kind in ("fx_graph", "aot_autograd", "workload")
        ] == [
            2,
            1,
            1,
        ]


def test_sigkill_leaves_a_bucket_that_verifies(fresh_worker: Worker, moto_server: Server) -> None:
    """A worker that is killed in the middle of its uploads leaves nothing that a reader would stumble over."""
    place = by_name(moto_server)
    process, reports = fresh_worker.start("train_and_wait", bucket=place)
    with RawBucket(place.url, place.options) as raw:
        while not raw.names(r"manifest\.json$"):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        assert fresh_worker.end(process, reports).code == -signal.SIGKILL
        assert verify(Catalog(raw.bucket())).bad == ()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_passes_signals_on(worker: Worker, tmp_path: Path, number: signal.Signals) -> None:
    """`tritonsync run` is no wall between a supervisor and the program."""
    program = (
        "import signal, sys, time\nsignal.signal({0}, lambda *_: sys.exit(7))\nprint('up', flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tritonsync", "run", "--", sys.executable, "-c", program.format(int(number))],
        env=worker.environ(tmp_path / "bucket", tmp_path / "cache"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == 7


def test_run_of_something_else_is_not_called_warm(worker: Worker, tmp_path: Path) -> None:
    """A program that never loads the plugin proves nothing; without --assert-warm its exit code counts."""

    def run(*options: str) -> int:
        return subprocess.run(
            [sys.executable, "-m", "tritonsync", "run", *options, "--", "sh", "-c", "exit $CODE"],
            env=worker.environ(tmp_path / "bucket", tmp_path / "cache", CODE="0" if options else "5"),
            cwd=ROOT,
            check=False,
            timeout=120,
            stderr=subprocess.DEVNULL,
        ).returncode

    assert run("--assert-warm") == 3
    assert run() == 5
