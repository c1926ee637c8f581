"""Daemon threads that are kept for the next call.

Python 3.12 starts no thread once a program has begun to end ("can't create new thread at interpreter shutdown"; 3.10,
3.11 and 3.13 do), and that is when the last uploads are made. So threads wait for more work when theirs is done, and a
program that may upload something starts some of them while it can (`calls.prepare_for_end`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from tritonsync.remote.forking import forget_after_fork

__all__ = ["Crew", "crew"]

#: Threads that wait for work at most; more are started when there is more to do, and end when it is done.
KEPT = 16

Work = Callable[[], None]


class Crew:
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
            return self._hire(work)
        inbox.put(work)
        return True

    def reserve(self, count: int) -> None:
        """Start so many threads, less those that are idle now."""
        for _ in range(count - len(self._idle)):
            self._hire(lambda: None)

    def _hire(self, work: Work) -> bool:
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
crew = Crew()
