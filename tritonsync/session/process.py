"""How a process ends, and how to do something before it does."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - see at_end
import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from tritonsync import times
from tritonsync.messages import traceback_of

__all__ = ["at_end", "at_sigterm", "no_fork"]

log = logging.getLogger(__name__)


def at_end(main_is_done: Callable[[], None], all_is_done: Callable[[], None]) -> None:
    """Call back when this process ends by itself; not in processes forked from it.

    Args:
        main_is_done: called when the main thread has ended. s3fs and gcsfs look host names up on a thread pool, and
            none takes work after this: handlers of `threading._register_atexit` run last registered first, so
            `concurrent.futures.thread`, whose handler closes all pools, must have been imported before.
        all_is_done: called afterwards, when the program's other threads have ended too.

    Children of multiprocessing leave by `os._exit`; what runs there is a Finalize.
    """
    pid = os.getpid()

    def guarded(callback: Callable[[], None]) -> None:
        # What is raised here would keep Python from waiting for the program's threads.
        if os.getpid() == pid:
            try:
                callback()
            except Exception as exc:  # noqa: BLE001 - said
                log.warning("the end of this process went wrong\n%s", traceback_of(exc))

    with contextlib.suppress(AttributeError, RuntimeError):  # another Python, or one that is ending already
        threading._register_atexit(lambda: guarded(main_is_done))  # type: ignore[attr-defined]  # noqa: SLF001
    atexit.register(lambda: guarded(all_is_done))
    if multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, lambda: guarded(all_is_done), exitpriority=100)


class _Sigterm:
    """Handles SIGTERM: calls back on a thread of its own, then lets the signal have its usual effect.

    The handler itself runs inside whatever the main thread was doing, whose locks it must not wait for; so it only
    tells the thread, and the program goes on until that is done.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        # Its `put` may interrupt itself, which that of other queues may not.
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_done = False
        threading.Thread(target=self._wait, name="tritonsync-sigterm", daemon=True).start()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self._is_done:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:
            self._told.put(None)

    def _wait(self) -> None:
        self._told.get()
        with contextlib.suppress(Exception):
            self._callback()
        self._is_done = True
        # Only the main thread may change what a signal does.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(times.STUCK_S)
        os._exit(128 + signal.SIGTERM)


def at_sigterm(callback: Callable[[], None]) -> bool:
    """Call back before SIGTERM ends this process; return whether that could be arranged.

    Only where nobody else handles it, and only from the main thread, which is where Python runs handlers. Afterwards
    the signal has its usual effect, so whoever waits for the process sees that it ended by SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    try:
        signal.signal(signal.SIGTERM, _Sigterm(callback))
    except RuntimeError:  # no thread can be started
        return False
    return True


def _reset_sigterm_in_child() -> None:
    # Its thread does not exist here, and a child that is told to go before it has anything to publish just goes.
    if isinstance(signal.getsignal(signal.SIGTERM), _Sigterm):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_sigterm_in_child)


_gate = threading.RLock()
#: Which of the blocks is the last one that was entered, and the last one for which a fork has waited long enough.
_block = 0
_waited_for = 0
_forking = threading.local()


@contextlib.contextmanager
def no_fork() -> Iterator[None]:
    """Let forks of other threads wait until the end of the block."""
    global _block
    with _gate:
        _block += 1
        yield


def _close_gate() -> None:
    global _waited_for
    _forking.held = _gate.acquire(timeout=0 if _waited_for == _block else times.FORK_GATE_S)
    if not _forking.held:
        _waited_for = _block


def _open_gate_in_parent() -> None:
    if _forking.held:
        _gate.release()


def _open_gate_in_child() -> None:
    global _gate
    _gate = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_gate, after_in_parent=_open_gate_in_parent, after_in_child=_open_gate_in_child)
