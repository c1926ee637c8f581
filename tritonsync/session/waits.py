"""What becomes of the program while it waits for the bucket: whether it may wait, and what failures lead to.

Trouble of any kind is a miss, said once per cause. What will not get better (access denied, no such bucket, wrong
settings, a cache folder that others may write into) turns the bucket off for the rest of the process, and so does a
budget most of which was spent since the bucket last answered. One that was spent on misses only stops the questions:
what the bucket lacks is what has to be published. What fails where the program does not wait, such as an upload, says
nothing of that: the bucket has refused one object, or is slow at the moment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from tritonsync.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    MissingExtraError,
    SettingsError,
    TritonSyncError,
    UnsafeFolderError,
)
from tritonsync.messages import warn_once
from tritonsync.remote.waiting import Budget
from tritonsync.session.counters import Counters

__all__ = ["Waits"]

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What will not get better in the life of a process.
_LASTING = (AccessDeniedError, BucketNotFoundError, SettingsError, MissingExtraError, UnsafeFolderError)


class Waits:
    """Waits for the bucket, from any thread of the program.

    Args:
        seconds: what the program may lose by waiting in vain, in all.
        counters: of the session.

    Attributes:
        budget: what is left of that.
    """

    def __init__(self, seconds: float, counters: Counters) -> None:
        self.budget = Budget(seconds)
        self._counters = counters
        self._off: str | None = None
        #: Of the budget, when the bucket last answered the program.
        self._left_at_answer = seconds
        self._has_ended = False

    def end(self) -> None:
        """Ask nothing more."""
        self._has_ended = True

    @property
    def is_off(self) -> bool:
        """Whether the bucket is left alone for the rest of this process."""
        # A healthy bucket may be cut short by the end of the budget, but not for most of it.
        if self._off is None and 2 * self._left_at_answer > self.budget.seconds and self.budget.left <= 0:
            self._turn_off(f"the program has waited {self.budget.seconds:g} s for it in vain")
        return self._off is not None

    @property
    def may_wait(self) -> bool:
        """Whether the program may wait for an answer. What it makes is published all the same, unless `is_off`."""
        if self.is_off or self._has_ended:
            return False
        if self.budget.left > 0:
            return True
        message = "the program has waited %g s for what the bucket lacks; it is not asked for more in this process"
        warn_once(log, "spent", message, self.budget.seconds)
        return False

    def wait_for(
        self,
        question: Callable[[], T],
        nothing: T,
        is_worth_it: Callable[[T], bool],
        is_answered: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """Let the program wait for the bucket; any trouble is nothing.

        Args:
            question: asks.
            nothing: what is returned where it cannot be asked, or does not answer.
            is_worth_it: told the answer; where it says so, the wait is not charged to the budget.
            is_answered: whether it was the bucket that answered.
        """
        if not self.may_wait:
            return nothing
        started = time.perf_counter()
        try:
            with self.budget.wait() as wait:
                answer = question()
                if is_worth_it(answer):
                    wait.paid_off()
        except (TritonSyncError, FutureTimeoutError) as exc:
            self.failed(exc)
            return nothing
        else:
            if is_answered(answer):
                self._left_at_answer = self.budget.left
            return answer
        finally:
            self._counters.add(waited_s=time.perf_counter() - started)

    def failed(self, exc: Exception) -> None:
        """Say what went wrong, once per cause; what will not get better turns the bucket off."""
        if isinstance(exc, _LASTING):
            self._turn_off(str(exc))
        elif isinstance(exc, FutureTimeoutError) and not isinstance(exc, TritonSyncError):
            warn_once(log, "slow", "the bucket did not answer in time; going on without it")
        elif isinstance(exc, TritonSyncError):
            warn_once(log, type(exc).__name__, "going on without a result: %s", exc)
        else:
            warn_once(log, type(exc).__name__, "unexpected failure; going on without a result", exc_info=exc)

    def _turn_off(self, reason: str) -> None:
        if self._off is None:
            self._off = reason
            log.warning("the bucket is off for the rest of this process: %s", reason)
