"""No fork while a background thread imports: the lock of a half-imported module would stay locked in the child.

`import torch` starts such a thread in every process, and a program may fork right then, for its data loaders say. A
fork waits for the gate; not for long, since a thread that is still inside after that waits for a network, and holds no
lock of the interpreter. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

__all__ = ["no_fork"]

#: Seconds that a fork waits at most. Importing s3fs and making its first client takes half a second.
PATIENCE_S = 3.0

_gate = threading.RLock()
_held = False


@contextlib.contextmanager
def no_fork() -> Iterator[None]:
    """Let forks of other threads wait until the end of the block."""
    with _gate:
        yield


def _before() -> None:
    global _held
    _held = _gate.acquire(timeout=PATIENCE_S)


def _in_parent() -> None:
    if _held:
        _gate.release()


def _in_child() -> None:
    global _gate
    _gate = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
