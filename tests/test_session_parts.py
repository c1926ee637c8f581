"""The parts of a session that need neither torch nor a bucket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tritonsync.plugins.autoload import is_helper
from tritonsync.remote.threads import DaemonThreads
from tritonsync.session.counters import Counters, summary
from tritonsync.session.incoming import Arrival, SharedFetch
from tritonsync.session.naming import program_name
from tritonsync.session.uploads import CAPACITY, Uploads


def unexpected(exc: Exception) -> None:
    raise exc


def hold(gate: threading.Event) -> Callable[[], None]:
    def job() -> None:
        gate.wait()

    return job


def test_uploads_run_by_rank() -> None:
    """What makes a bundle exist goes before what completes it, whenever it was queued."""
    gate, done = threading.Event(), []
    uploads = Uploads(unexpected)
    for _ in range(2):  # one for each thread
        uploads.submit(hold(gate))
    for name, rank in (("complete", 2), ("publish", 0), ("belongings", 1)):
        uploads.submit(lambda name=name: done.append(name), rank=rank)  # type: ignore[misc]
    gate.set()
    uploads.flush(10)
    assert done[0] == "publish"
    assert sorted(done) == ["belongings", "complete", "publish"]
    assert uploads.is_idle


def test_a_flush_does_not_wait_for_what_is_due_later() -> None:
    """A job with a delay is done at once when the process ends."""
    done = threading.Event()
    uploads = Uploads(unexpected)
    uploads.submit(done.set, delay=3600)
    assert not done.is_set()
    uploads.flush(10)
    assert done.is_set()


def test_a_flush_ends_in_time_and_counts_what_is_left() -> None:
    """Jobs that hang are given up, running ones included."""
    gate = threading.Event()
    uploads = Uploads(unexpected)
    for _ in range(5):
        uploads.submit(hold(gate))
    uploads.flush(0.05)
    assert uploads.close() == 5
    assert not uploads.submit(gate.set)
    gate.set()


def test_a_flush_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be had there is nothing to wait for."""
    monkeypatch.setattr(DaemonThreads, "start", lambda _threads, _work: False)
    uploads = Uploads(unexpected)
    assert uploads.submit(lambda: None)
    started = time.monotonic()
    uploads.flush(30)
    assert time.monotonic() - started < 10
    assert uploads.close() == 1


def test_a_full_queue_takes_no_more() -> None:
    """Neither in number nor in bytes."""
    gate = threading.Event()
    uploads = Uploads(unexpected)
    assert not uploads.submit(gate.set, size=1 << 40)
    taken = sum(uploads.submit(hold(gate)) for _ in range(2 * CAPACITY))
    assert CAPACITY <= taken <= CAPACITY + 2
    uploads.close()
    gate.set()


def test_a_job_that_fails_is_told_and_ends_nothing() -> None:
    """Its thread goes on, even if telling fails too."""
    told: list[Exception] = []

    def failed(exc: Exception) -> None:
        told.append(exc)
        raise RuntimeError

    def job() -> None:
        raise ZeroDivisionError

    uploads = Uploads(failed)
    for _ in range(10):
        uploads.submit(job)
    uploads.flush(10)
    assert len(told) == 10
    assert uploads.is_idle


def test_a_fetch_is_made_once() -> None:
    """Whoever comes first makes it, the others get what it brings."""
    gate = threading.Event()
    ended: list[SharedFetch] = []
    runs: list[float | None] = []

    def work(timeout: float | None) -> Arrival:
        gate.wait()
        runs.append(timeout)
        return Arrival(asked=False)

    fetch = SharedFetch(work, ended.append)
    runner = threading.Thread(target=fetch.run, args=(3.0,))
    runner.start()
    while not fetch._claimed:
        time.sleep(0)
    fetch.run(None)
    assert not ended
    gate.set()
    assert fetch.run_or_wait(10) == Arrival(asked=False)
    runner.join()
    assert runs == [3.0]
    assert ended == [fetch]


def test_a_fetch_that_fails_raises_where_its_result_is_asked_for() -> None:
    """And it has ended, so that the next one of its key is a new one."""
    ended: list[SharedFetch] = []

    def work(_timeout: float | None) -> Arrival:
        raise ZeroDivisionError

    fetch = SharedFetch(work, ended.append)
    with pytest.raises(ZeroDivisionError):
        fetch.run_or_wait(0)
    assert ended == [fetch]


def test_own_time_is_counted_once() -> None:
    """Blocks inside blocks do not count twice."""
    counters = Counters()
    with counters.own(), counters.own():
        time.sleep(0.02)
    assert counters.now.own_s >= 0.02
    inner = counters.now.own_s
    with pytest.raises(ZeroDivisionError), counters.own():
        raise ZeroDivisionError
    assert counters.now.own_s >= inner


def test_the_line_at_exit() -> None:
    """It says what matters, and leaves out what did not happen."""
    counters = Counters()
    assert counters.now.is_idle
    counters.add(hits=3, kernels_fetched=188, waited_s=0.31, saved_s=41.2)
    counters.add(own_s=0.09)
    line = summary(counters.now, bytes_down=1_900_000, bytes_up=0)
    assert line == (
        "3 hits, 0 misses, 188 kernels fetched, 0 compiled, 1.9 MB down, 0 B up; "
        "waited 0.31 s, saved about 41 s of compilation, 0.09 s on the compiling thread"
    )
    assert not counters.now.is_idle


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, ""), (0.9, ""), (1.04, "about 1 s"), (9.6, "about 10 s"), (14.4, "about 14 s"), (1234.5, "about 1200 s")],
)
def test_what_was_saved_is_said_roughly(seconds: float, said: str) -> None:
    """Another host has measured it, however busy it was; less than a second is not worth a word."""
    counters = Counters()
    counters.add(hits=1, saved_s=seconds)
    line = summary(counters.now, bytes_down=0, bytes_up=0)
    assert (f"saved {said} of compilation" in line) if said else ("saved" not in line)


@pytest.mark.parametrize(
    ("path", "helper"),
    [
        ("/venv/lib/python3.11/site-packages/torch/_inductor/compile_worker/__main__.py", True),
        ("/venv/lib/python3.11/site-packages/torch/_inductor/__autotune_main__.py", True),
        ("/srv/compile_worker/train.py", False),
        ("/srv/compile_worker/__main__.py", False),
        ("my_compile_worker.py", False),
        ("__autotune_main__.py", False),
        ("/srv/nottorch/_inductor/compile_worker/__main__.py", False),
        ("", False),
    ],
)
def test_helpers_of_torch_are_known_by_their_place(path: str, helper: bool) -> None:
    """A program of the user's own is none, whatever its path holds."""
    assert is_helper([path, "--workers=4"]) is helper
    assert not is_helper([])


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/home/me/resnet/train.py", "--lr", "1"], "resnet-train"),
        (["/mnt/jobs/8f3a9c2b/resnet/train.py"], "resnet-train"),
        (["/home/me/vit/scripts/train.py"], "vit-train"),
        (["/srv/app/train.py", "--lr", "1"], "train"),
        (["/tmp/tmpx3k2/train.py"], "train"),
        (["/home/me/experiments/2026-11-27/train.py"], "experiments-train"),
        (["/usr/bin/vllm"], "vllm"),
        (["/home/me/lib/site-packages/pkg/serve.py"], "pkg-serve"),
        (["/lib/python3/site-packages/my.pkg/__main__.py"], "my.pkg"),
        (["/models/what ever!.py"], "models-what-ever"),
        (["/home/me/project/.venv/bin/ipython"], None),
        (["-c"], None),
        ([""], None),
        ([], None),
    ],
)
def test_a_workload_is_named_after_the_program(argv: list[str], name: str | None) -> None:
    """And after the folder that tells it from others; programs without a name of their own have no workload."""
    assert program_name(argv) == name


@pytest.mark.parametrize(
    ("notebook", "name"), [("/home/me/lab/demo.ipynb", "lab-demo"), ("/home/me/lab/console-1", None), (None, None)]
)
def test_a_notebook_is_named_after_itself(notebook: str | None, name: str | None) -> None:
    """Not after the kernel that all of them run in."""
    assert program_name(["/lib/site-packages/ipykernel_launcher.py", "-f", "x.json"], notebook) == name
