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


def _before() -> None:
    global _waited_for
    _forking.held = _gate.acquire(timeout=0 if _waited_for == _block else PATIENCE_S)
    if not _forking.held:
        _waited_for = _block


def _in_parent() -> None:
    if _forking.held:
        _gate.release()


def _in_child() -> None:
    global _gate
    _gate = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
