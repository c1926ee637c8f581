"""Waiting for a foreign call no longer than we want to.

A call is abandoned at its deadline, whatever it does: on fsspec's event loop it is cancelled, on a thread it is left
behind. All threads are daemons, never of a `ThreadPoolExecutor`: Python joins those at exit, so that one silent server
would keep a finished program from ending. Where a program that ends has no thread left (see crew.py), calls are made
one after the other in the thread that wants them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from fsspec.asyn import get_loop

from tritonsync.remote.crew import crew

__all__ = ["in_parallel", "on_loop", "on_thread", "prepare_for_end", "start_thread"]

T = TypeVar("T")
K = TypeVar("K")

#: Threads that a program has for its last uploads at least.
_RESERVE = 8


def prepare_for_end() -> None:
    """Start the threads that the last uploads need: ours, that of fsspec's event loop, and one that finds hosts."""
    crew.reserve(_RESERVE)
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

    if not crew.start(run):
        run()
    return future


def in_parallel(call: Callable[[K], T], items: Iterable[K], width: int) -> dict[K, T]:
    """Call for each item, on at most `width` daemon threads, and return the results by item.

    The first error that `call` lets through is raised, and items not begun yet are dropped.
    """
    todo = deque(dict.fromkeys(items))
    count = len(todo)
    if count == 1:
        return {item: call(item) for item in todo}
    ended: queue.SimpleQueue[tuple[K, Future[T]]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            try:
                item = todo.popleft()
            except IndexError:
                return
            future: Future[T] = Future()
            try:
                future.set_result(call(item))
            except BaseException as exc:  # noqa: BLE001 - it is raised in the thread that waits
                future.set_exception(exc)
            ended.put((item, future))

    if not sum(crew.start(work) for _ in range(min(width, count))):
        work()
    results: dict[K, T] = {}
    try:
        while len(results) < count:
            item, future = ended.get()
            results[item] = future.result()
    except BaseException:
        todo.clear()
        raise
    return results
