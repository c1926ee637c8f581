"""Uploads in the background: a bounded queue, two daemon threads, and a flush that ends in time."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable

from tritonsync import times
from tritonsync.errors import AccessDeniedError, BucketNotFoundError, RemoteError
from tritonsync.remote.threads import daemon_threads

__all__ = ["Uploads"]

log = logging.getLogger(__name__)

#: Uploads that may wait. A graph makes two; what a program compiles faster than a bucket takes it is dropped.
CAPACITY = 256
#: Bytes that may wait.
CAPACITY_BYTES = 1 << 30
_THREADS = 2


@dataclasses.dataclass(frozen=True)
class _Job:
    work: Callable[[], None]
    rank: int
    number: int
    due: float
    size: int
    is_again: bool = False


class Uploads:
    """Runs jobs in the background, those of low rank first.

    A job that is due later lets the ones before it pass; a flush makes everything due at once. What a job raises is
    given to `failed`, on the thread that ran it; after an error that may pass, it is tried once more before that.
    Threads are daemons: none of them keeps a program from ending.
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        # A Condition's own lock is re-entrant: a signal handler may flush while its own thread submits.
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._numbers = itertools.count()
        self._running: set[int] = set()
        self._threads = 0
        self._bytes = 0
        self._flushing = False
        self._closed = False

    def submit(self, work: Callable[[], None], *, rank: int = 0, delay: float = 0.0, size: int = 0) -> bool:
        """Queue a job; return whether there was room. Jobs of a higher rank make room for it.

        Args:
            work: what to do.
            rank: jobs of a lower one go first.
            delay: seconds before it begins, at the earliest.
            size: bytes that it holds.
        """
        with self._changed:
            if self._closed or not self._make_room(rank, size):
                return False
            self._jobs.append(_Job(work, rank, next(self._numbers), time.monotonic() + delay, size))
            self._bytes += size
            if self._threads < _THREADS and daemon_threads.start(self._run):
                self._threads += 1
            self._changed.notify_all()
        return True

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        with self._changed:
            return not self._jobs and not self._running

    def flush(self, seconds: float, *, up_to: int | None = None) -> None:
        """Wait until all jobs (of rank `up_to` and below, if given) are done, at most so many seconds."""
        with self._changed:
            self._flushing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_through(up_to), timeout=max(seconds, 0.0))

    def drop(self) -> int:
        """Drop the jobs that wait, give up those that run, and return how many that were."""
        with self._changed:
            dropped = len(self._jobs) + len(self._running)
            self._bytes -= sum(job.size for job in self._jobs)
            self._jobs.clear()
            self._running.clear()
            self._flushing = False
            self._changed.notify_all()
        return dropped

    def close(self) -> int:
        """Take no more jobs; return how many were dropped."""
        with self._changed:
            self._closed = True
        return self.drop()

    def _make_room(self, rank: int, size: int) -> bool:
        if self._flushing:
            return True  # it is the last that comes
        if size > CAPACITY_BYTES:
            return False
        while len(self._jobs) >= CAPACITY or self._bytes + size > CAPACITY_BYTES:
            last = max(self._jobs, key=lambda job: (job.rank, job.number), default=None)
            if last is None or last.rank <= rank:
                return False
            self._jobs.remove(last)
            self._bytes -= last.size
        return True

    def _is_through(self, up_to: int | None) -> bool:
        """Whether nothing is left to be done, or nobody is there to do it."""
        if not self._threads:
            return True
        return not self._running and not any(up_to is None or job.rank <= up_to for job in self._jobs)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.work()
            except Exception as exc:  # noqa: BLE001 - it may be anything, and must not end the thread
                if not self._put_back(job, exc):
                    with contextlib.suppress(Exception):
                        self._failed(exc)
            finally:
                with self._changed:
                    self._running.discard(job.number)
                    self._bytes -= job.size
                    self._changed.notify_all()
            del job

    def _put_back(self, job: _Job, exc: Exception) -> bool:
        """Queue a job again whose error may pass: the bucket was in trouble, and is left alone for a while."""
        may_pass = isinstance(exc, RemoteError) and not isinstance(exc, (AccessDeniedError, BucketNotFoundError))
        with self._changed:
            if not may_pass or job.is_again or self._flushing or self._closed:
                return False
            self._jobs.append(dataclasses.replace(job, due=time.monotonic() + times.RETRY_UPLOAD_S, is_again=True))
            self._bytes += job.size
            return True

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                due = [job for job in self._jobs if self._flushing or job.due <= now]
                if due:
                    job = min(due, key=lambda job: (job.rank, job.number))
                    self._jobs.remove(job)
                    self._running.add(job.number)
                    return job
                self._changed.wait(min((job.due - now for job in self._jobs), default=None))
            return None
