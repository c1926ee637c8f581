"""Waiting for a foreign call no longer than we want to.

A call is abandoned at its deadline, whatever it does: on fsspec's event loop it is cancelled, on a thread it is left
behind. All threads are daemons, never of a `ThreadPoolExecutor`: Python joins those at exit, so that one silent server
would keep a finished program from ending. Where a program that ends has no thread left, calls are made one after the
other in the thread that wants them.

Python 3.12 starts no thread once a program has begun to end ("can't create new thread at interpreter shutdown"; 3.10,
3.11 and 3.13 do), and that is when the last uploads are made. So threads wait for more work when theirs is done, and a
program that may upload something starts some of them while it can (`prepare_for_end`).
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tritonsync import times

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "DaemonThreads",
    "daemon_threads",
    "forget_after_fork",
    "in_parallel",
    "on_loop",
    "on_thread",
    "prepare_for_end",
    "start_thread",
]


class Forgetful(Protocol):
    """Something with state that belongs to the threads of one process."""

    def after_fork(self) -> None:
        """Start afresh; called in the child, where only the calling thread exists."""


_known: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def forget_after_fork(thing: Forgetful) -> None:
    """Have `thing.after_fork()` called in every child forked from now on, for as long as `thing` lives."""
    _known.add(thing)


def _in_child() -> None:
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


#: Threads that wait for work at most; more are started when there is more to do, and end when it is done.
KEPT = 16

Work = Callable[[], None]


class DaemonThreads:
    """Threads, and which of them are idle."""

    def __init__(self) -> None:
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Begin with none: the threads of a parent do not exist in its child."""
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[Work]] = []

    def start(self, work: Work) -> bool:
        """Have the work done on a daemon thread; return whether there is one.

        Args:
            work: must not raise.
        """
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            return self._start_thread(work)
        inbox.put(work)
        return True

    def reserve(self, count: int) -> None:
        """Start so many threads, less those that are idle now."""
        for _ in range(count - len(self._idle)):
            self._start_thread(lambda: None)

    def _start_thread(self, work: Work) -> bool:
        inbox: queue.SimpleQueue[Work] = queue.SimpleQueue()
        inbox.put(work)
        try:
            threading.Thread(target=self._run, args=(inbox,), name="tritonsync", daemon=True).start()
        except RuntimeError:  # the program is ending, or the system has no more of them
            return False
        return True

    def _run(self, inbox: queue.SimpleQueue[Work]) -> None:
        while True:
            work = inbox.get()
            work()
            del work
            with self._lock:
                if len(self._idle) >= KEPT:
                    return
                self._idle.append(inbox)


#: All of this process.
daemon_threads = DaemonThreads()


T = TypeVar("T")
K = TypeVar("K")

#: Called with (done, all).
Progress = Callable[[int, int], None]

#: Threads that a program has for its last uploads at least.
_RESERVE = 8


def prepare_for_end(*, loops: bool = True) -> None:
    """Start the threads that the last uploads need.

    Args:
        loops: those of fsspec's event loop too: its own, and one that finds hosts.
    """
    daemon_threads.reserve(_RESERVE)
    if not loops:
        return
    from fsspec.asyn import get_loop

    loop = get_loop()

    async def find_nothing() -> None:
        await loop.run_in_executor(None, int)

    with contextlib.suppress(Exception):  # it is for later; whoever needs it then meets the error
        on_loop(loop, find_nothing(), 1.0)


def on_loop(loop: asyncio.AbstractEventLoop, call: Coroutine[Any, Any, T], timeout: float) -> T:
    """Run a coroutine on a loop of another thread; cancel it when `timeout` seconds are over.

    Raises:
        concurrent.futures.TimeoutError: it has not ended in time.
    """
    import asyncio  # not at the top: it takes as long to import as the rest of this room

    future = asyncio.run_coroutine_threadsafe(call, loop)
    try:
        return future.result(timeout)
    except BaseException:
        # Also at Ctrl-C. After the call's own error it does nothing.
        future.cancel()
        raise


def on_thread(call: Callable[[], T], timeout: float) -> T:
    """Run a blocking call on a thread of its own; leave it alone when `timeout` seconds are over.

    Raises:
        concurrent.futures.TimeoutError: it has not ended in time.
    """
    return start_thread(call).result(timeout)


def start_thread(call: Callable[[], T]) -> Future[T]:
    """Start a blocking call on a daemon thread."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as exc:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(exc)

    if not daemon_threads.start(run):
        run()
    return future


def in_parallel(call: Callable[[K], T], items: Iterable[K], width: int, progress: Progress | None = None) -> dict[K, T]:
    """Call for each item, on at most `width` daemon threads, and return the results by item, in the order of the items.

    The first error that `call` lets through is raised; items not begun yet are dropped, and what is in flight gets a
    moment (`times.CLOSE_S`) to end or clean up: the error may end the process.

    Args:
        call: does the work of one item.
        items: hashable; repeats are done once.
        width: how many at a time.
        progress: called with (done, all) at the beginning and after each item, in the thread that waits.
    """
    wanted = list(dict.fromkeys(items))
    count = len(wanted)
    todo = deque(wanted)
    if count == 1 and progress is None:
        return {item: call(item) for item in wanted}
    ended: queue.SimpleQueue[tuple[K, Future[T]]] = queue.SimpleQueue()
    begun: list[K] = []

    def work() -> None:
        while True:
            try:
                item = todo.popleft()
            except IndexError:
                return
            begun.append(item)
            future: Future[T] = Future()
            try:
                future.set_result(call(item))
            except BaseException as exc:  # noqa: BLE001 - it is raised in the thread that waits
                future.set_exception(exc)
            ended.put((item, future))

    if not sum(daemon_threads.start(work) for _ in range(min(width, count))):
        work()
    results: dict[K, T] = {}
    try:
        if progress is not None:
            progress(0, count)
        while len(results) < count:
            item, future = ended.get()
            results[item] = future.result()
            if progress is not None:
                progress(len(results), count)
    except BaseException:
        todo.clear()
        end = time.monotonic() + times.CLOSE_S
        with contextlib.suppress(queue.Empty):
            for _ in range(len(begun) - len(results) - 1):
                ended.get(timeout=max(end - time.monotonic(), 0.0))
        raise
    return {item: results[item] for item in wanted}
