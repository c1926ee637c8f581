"""When to ask the bucket again, and when to stop: deadlines, retries, the budget of a process, and a breaker.

`Deadline` is the end of an operation of several calls. `RetryPolicy` repeats one call. `Budget` adds up what a process
has waited in vain. `Breaker` leaves a bucket alone that failed several times in a row. The numbers are in `times.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from tritonsync import times
from tritonsync.errors import RemoteOffError
from tritonsync.remote.threads import forget_after_fork

__all__ = ["Breaker", "Budget", "Deadline", "RetryPolicy", "Wait"]


class Deadline:
    """Counts down from now.

    Args:
        seconds: for all calls together; None: each call has its own limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float | None:
        """Seconds that are left, as `timeout` of a call; None for no common limit."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.0)

    def extend(self, seconds: float) -> None:
        """Have it end later: so much time went to something else."""
        if self._end is not None:
            self._end += seconds


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How one call to the bucket is repeated and bounded. Times are in seconds; see `times.py` for each.

    Attributes:
        attempts: how often a call is made at most.
        connect_timeout: for a connection, where the client lets us say so.
        read_timeout: without a single byte, where the client lets us say so.
        deadline: for one call with all its repetitions, when the caller names no other.
        read_attempt: for one attempt to read or list, at least; see `part`.
        upload_attempt: for one attempt to create an object; large bodies get more here too.
        upload_rate: bytes per second that an upload may count on: large bodies get that much more time.
        pause: the longest first pause before a repetition; it doubles each time, and each is drawn at random below it.
        max_pause: the longest pause at all.
        breaker_failures: so many failed calls in a row open the breaker.
        breaker_pause: so long it stays open.
    """

    attempts: int = 4
    connect_timeout: float = times.CONNECT_S
    read_timeout: float = times.READ_S
    deadline: float = times.CALL_S
    read_attempt: float = times.READ_ATTEMPT_S
    upload_attempt: float = times.UPLOAD_ATTEMPT_S
    upload_rate: float = times.UPLOAD_BYTES_PER_S
    pause: float = times.PAUSE_S
    max_pause: float = times.MAX_PAUSE_S
    breaker_failures: int = 5
    breaker_pause: float = times.BREAKER_PAUSE_S

    @classmethod
    def of_command(cls, timeout: float) -> RetryPolicy:
        """Return the policy of a command, which may take so long for each call: it is asked to get something done."""
        # A part of the time, so that one silent answer leaves room to ask again.
        return cls(read_timeout=min(60.0, timeout / 3), deadline=timeout)

    def seconds(self, timeout: float | None, upload: int = 0) -> float:
        """Return the seconds that one call has, given the caller's own limit, if any, and the bytes to be sent."""
        return self.deadline + upload / self.upload_rate if timeout is None else timeout

    def part(self, left: float) -> float:
        """Return the seconds of one attempt to read or list: an answer that trickles leaves room to ask again."""
        return min(left, max(left / 2, self.read_attempt))

    def repeat(
        self,
        call: Callable[[float], T],
        seconds: float,
        passing: Callable[[BaseException], bool],
        pausing: Callable[[float], None] = lambda _: None,
    ) -> T:
        """Call until it succeeds, fails with no `passing` error, or attempts or time are used up; raise the last error.

        `call` is given the seconds that are left, and `pausing` those of each pause before it. A pause that would reach
        the end is not begun: what has failed by then is more telling than a time-out.
        """
        end = time.monotonic() + seconds
        try:
            return call(seconds)
        except BaseException as exc:
            if self.attempts < 2 or not passing(exc):
                raise
            first = [exc]
        # Imported where something has to be repeated: it takes longer to import than the rest of this room.
        import tenacity

        def again() -> T:
            if first:
                raise first.pop()
            return call(max(end - time.monotonic(), 0.0))

        def before_sleep(state: tenacity.RetryCallState) -> None:
            pausing(state.upcoming_sleep)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts)
            | tenacity.stop_before_delay(max(end - time.monotonic(), 0.0)),
            wait=tenacity.wait_random_exponential(multiplier=self.pause, max=self.max_pause),
            retry=tenacity.retry_if_exception(passing),
            before_sleep=before_sleep,
            reraise=True,
        )
        return retrying(again)


class Wait:
    """One wait for the bucket."""

    def __init__(self) -> None:
        self._paid_off = False

    def paid_off(self) -> None:
        """Say that it was worth it: its time is given back."""
        self._paid_off = True

    @property
    def in_vain(self) -> bool:
        """Whether nobody said otherwise."""
        return not self._paid_off


class Budget:
    """Seconds that a process may wait for the bucket in vain: for misses, errors and time-outs.

    ::

        with budget.wait() as wait:
            value = bucket.get(name, timeout=budget.left)
            if value is not None:
                wait.paid_off()

    What counts is the time that the program lost, not the sum over its threads: a second in which eight threads wait is
    one second. A wait that is still going on counts as if it were in vain, so a caller that passes `timeout=left` never
    loses more than the whole, however its threads overlap; when it pays off, `left` grows again. Once nothing is left,
    `Bucket` answers `timeout=0` with `RemoteOffError` and asks nobody.

    A forked child begins with the full budget.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Forget what other threads of the parent were doing."""
        self._lock = threading.Lock()
        self._open: dict[Wait, float] = {}
        # What no wait can overlap any more is only a sum; the rest are intervals that do not touch, oldest first.
        self._settled = 0.0
        #: When the program waited for something else, as long as a wait that is going on may overlap it.
        self._excused: list[tuple[float, float]] = []
        self._lost: list[tuple[float, float]] = []

    @property
    def left(self) -> float:
        """Seconds that are left, 0.0 when the budget is spent."""
        with self._lock:
            lost = self._lost
            if self._open:
                lost = _union(lost, (min(self._open.values()), time.monotonic()))
            return max(self.seconds - self._settled - _length(_without(lost, self._excused)), 0.0)

    def excuse(self, seconds: float) -> None:
        """Do not charge the last so many seconds of a wait that is going on: they were no wait for the bucket."""
        now = time.monotonic()
        with self._lock:
            self._excused = _union(self._excused, (now - seconds, now))

    @contextlib.contextmanager
    def wait(self) -> Iterator[Wait]:
        """Charge the time until the end of the block, unless it pays off."""
        wait = Wait()
        with self._lock:
            self._open[wait] = time.monotonic()
        try:
            yield wait
        finally:
            with self._lock:
                # The wait is unknown in a child that was forked inside the block.
                start = self._open.pop(wait, None)
                if start is not None and wait.in_vain:
                    self._lost = _without(_union(self._lost, (start, time.monotonic())), self._excused)
                oldest = min(self._open.values(), default=float("inf"))
                self._settled += _length([lost for lost in self._lost if lost[1] <= oldest])
                self._lost = [lost for lost in self._lost if lost[1] > oldest]
                self._excused = [gap for gap in self._excused if gap[1] > oldest]


def _union(intervals: list[tuple[float, float]], new: tuple[float, float]) -> list[tuple[float, float]]:
    start, end = new
    apart = []
    for other in intervals:
        if other[1] < start or other[0] > end:
            apart.append(other)
        else:
            start, end = min(start, other[0]), max(end, other[1])
    return sorted([*apart, (start, end)])


def _without(intervals: list[tuple[float, float]], gaps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    for start, end in gaps:
        pieces = [piece for a, b in intervals for piece in ((a, min(b, start)), (max(a, end), b))]
        intervals = [(a, b) for a, b in pieces if a < b]
    return intervals


def _length(intervals: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in intervals)


class Breaker:
    """Leaves a bucket alone after several failed calls in a row, then lets one call try.

    Closed: every call passes. After `failures` unhealthy calls in a row it is open for `pause` seconds: every call is
    refused at once. Then it is half open: one call passes, the others are refused until that one has ended; if it is
    healthy the breaker closes, else it opens again. A call is healthy if the bucket answered, be it with a refusal.
    """

    def __init__(self, failures: int, pause: float) -> None:
        self._failures = failures
        self._pause = pause
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Begin closed: a child has its own connections."""
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._open_until: float | None = None
        self._trying = False

    def admit(self, what: str) -> None:
        """Let a call pass; each one that passed must be `record`ed.

        Raises:
            RemoteOffError: the breaker is open.
        """
        with self._lock:
            if self._open_until is None:
                return
            left = self._open_until - time.monotonic()
            if left > 0 or self._trying:
                raise RemoteOffError(
                    f"{what} was not asked for: {self._in_a_row} calls in a row failed; "
                    f"trying again {'now' if left <= 0 else f'in {left:.0f} s'}"
                )
            self._trying = True

    def record(self, *, healthy: bool) -> None:
        """Note how a call ended."""
        with self._lock:
            if healthy:
                self._in_a_row = 0
                self._open_until = None
            else:
                self._in_a_row += 1
                if self._trying or self._in_a_row >= self._failures:
                    self._open_until = time.monotonic() + self._pause
            self._trying = False
