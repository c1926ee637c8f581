"""The end of an operation that makes several calls."""

from __future__ import annotations

import time

__all__ = ["Deadline"]


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
