"""Threads that are kept, and what happens where no more can be had."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path

import pytest

from tritonsync.remote.bucket import Bucket
from tritonsync.remote.threads import KEPT, DaemonThreads, daemon_threads, in_parallel, on_thread, start_thread


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do as Python 3.12 does, once a program has begun to end."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """None are idle, and none can be started."""
    refuse_threads(monkeypatch)
    monkeypatch.setattr(daemon_threads, "_idle", [])


def ident_of(daemon_threads: DaemonThreads) -> int | None:
    """Return which thread does work now; None if there is none."""
    found: queue.SimpleQueue[int] = queue.SimpleQueue()
    return found.get(timeout=10) if daemon_threads.start(lambda: found.put(threading.get_ident())) else None


def wait_for_idle(daemon_threads: DaemonThreads, count: int) -> None:
    for _ in range(1000):
        if len(daemon_threads._idle) >= count:
            return
        threading.Event().wait(0.01)
    pytest.fail(f"{len(daemon_threads._idle)} threads are idle instead of {count}")


def test_a_thread_does_one_work_after_the_other() -> None:
    """A thread that is done is taken for the next call."""
    daemon_threads = DaemonThreads()
    first = ident_of(daemon_threads)
    wait_for_idle(daemon_threads, 1)
    assert ident_of(daemon_threads) == first != threading.get_ident()


def test_a_reserve_serves_when_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was started in time works on; more than that there is not, and it is said."""
    daemon_threads = DaemonThreads()
    daemon_threads.reserve(2)
    wait_for_idle(daemon_threads, 2)
    refuse_threads(monkeypatch)
    gate = threading.Event()

    def work() -> None:
        gate.wait(10)

    try:
        assert daemon_threads.start(work)
        assert daemon_threads.start(work)
        assert not daemon_threads.start(lambda: None)
    finally:
        gate.set()


def test_no_more_threads_are_kept_than_may_be() -> None:
    """Those of a burst end."""
    daemon_threads = DaemonThreads()
    gate = threading.Event()
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def work() -> None:
        gate.wait(10)
        done.put(1)

    for _ in range(KEPT * 2):
        assert daemon_threads.start(work)
    gate.set()
    for _ in range(KEPT * 2):
        done.get(timeout=10)
    wait_for_idle(daemon_threads, KEPT)
    assert len(daemon_threads._idle) == KEPT


def test_a_forked_child_begins_with_none() -> None:
    """The threads of its parent do not exist there."""
    daemon_threads = DaemonThreads()
    daemon_threads.reserve(1)
    wait_for_idle(daemon_threads, 1)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ident_of(daemon_threads) is not None else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_calls_are_made_in_the_callers_thread_where_there_is_no_other(no_threads: None) -> None:
    """Nothing is lost but the time-out."""
    here = threading.get_ident()
    assert in_parallel(lambda _: threading.get_ident(), range(3), 2) == dict.fromkeys(range(3), here)
    assert start_thread(threading.get_ident).result(0) == here
    with pytest.raises(ZeroDivisionError):
        on_thread(lambda: 1 // 0, 1.0)


def test_a_folder_is_read_and_written_without_threads(no_threads: None, tmp_path: Path) -> None:
    """The last uploads of a program with a folder as its bucket."""
    with Bucket(str(tmp_path)) as bucket:
        assert bucket.create("a/object", b"x")
        assert bucket.get_many({"a/object": 9, "a/none": 9}) == {"a/object": b"x", "a/none": None}
