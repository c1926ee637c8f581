"""What a forked child must forget: locks that another thread of the parent held, waits that go on only there.

Compile workers are forked while upload and prefetch threads run. A lock that was held in that moment stays locked in
the child for ever, because the thread that would release it does not exist there.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["forget_after_fork"]


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
