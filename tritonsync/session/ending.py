"""How a process ends, and how to do something before it does."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - see at_end
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["at_end", "at_sigterm"]


def at_end(callback: Callable[[], None]) -> None:
    """Call back when this process ends by itself; not in processes forked from it.

    A handler of `atexit` comes too late: s3fs and gcsfs look host names up on a thread pool, and none takes work after
    `threading._shutdown`. Handlers of `threading._register_atexit` run before that, last registered first, so
    `concurrent.futures.thread`, whose handler closes all pools, must have been imported before. Children of
    multiprocessing leave by `os._exit`; what runs there is a Finalize.
    """
    pid = os.getpid()

    def here() -> None:
        if os.getpid() == pid:
            callback()

    try:
        threading._register_atexit(here)  # type: ignore[attr-defined]  # noqa: SLF001
    except (AttributeError, RuntimeError):  # another Python, or one that is ending already
        atexit.register(here)
    if multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, here, exitpriority=100)


def at_sigterm(callback: Callable[[], None]) -> bool:
    """Call back before SIGTERM ends this process; return whether that could be arranged.

    Only where nobody else handles it, and only from the main thread, which is where Python runs handlers. Afterwards
    the signal has its usual effect, so whoever waits for the process sees that it ended by SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    pid = os.getpid()

    def handle(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # the second one would interrupt the callback
        if os.getpid() == pid:
            with contextlib.suppress(Exception):
                callback()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handle)
    return True
