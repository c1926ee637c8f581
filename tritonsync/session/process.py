"""How a process ends, and how it forks: what is called before the one, and when the other has to wait."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - see at_end
import contextlib
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator

from tritonsync import times
from tritonsync.redaction import traceback_of

__all__ = ["at_end", "no_fork"]

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


_gate = threading.RLock()
#: Which of the blocks is the last one that was entered, and the last one for which a fork has waited long enough.
_block = 0
_waited_for = 0
_forking = threading.local()


@contextlib.contextmanager
def no_fork() -> Iterator[None]:
    """Let forks of other threads wait until the end of the block; what is imported in it may have hooks for forks."""
    global _block
    with _gate, _knowing_hooks():
        _block += 1
        yield


class _Hooks:
    """The hooks of a module that was imported inside `no_fork`.

    Python lists what is to be called before a fork when that begins, and what is to be called afterwards when it is
    done. So a module that is imported while the fork waits at our gate would be called afterwards only, and would
    release locks that it does not hold. We call it before as well.
    """

    def __init__(
        self, before: Callable[[], object], after_in_parent: Callable[[], object], after_in_child: Callable[[], object]
    ) -> None:
        self._before, self._after_in_parent, self._after_in_child = before, after_in_parent, after_in_child
        # The threads that are forking, and have called `before`: each of them reads and changes only its own entry.
        self._prepared: set[int] = set()

    def before(self) -> None:
        if threading.get_ident() not in self._prepared:
            self._prepared.add(threading.get_ident())
            self._before()

    def after_in_parent(self) -> None:
        if threading.get_ident() in self._prepared:
            self._prepared.discard(threading.get_ident())
            self._after_in_parent()

    def after_in_child(self) -> None:
        prepared, self._prepared = self._prepared, set()
        if threading.get_ident() in prepared:
            self._after_in_child()


_hooks: list[_Hooks] = []


@contextlib.contextmanager
def _knowing_hooks() -> Iterator[None]:
    """Know the hooks that this thread registers in the block, which Python does not show."""
    if not hasattr(os, "register_at_fork"):
        yield
        return
    register, thread = os.register_at_fork, threading.get_ident()

    def register_at_fork(**hooks: Callable[[], object]) -> None:
        if threading.get_ident() != thread or "before" not in hooks:
            register(**hooks)
            return
        known = _Hooks(**{"after_in_parent": _nothing, "after_in_child": _nothing, **hooks})
        register(before=known.before, after_in_parent=known.after_in_parent, after_in_child=known.after_in_child)
        _hooks.append(known)

    os.register_at_fork = register_at_fork  # type: ignore[assignment]
    try:
        yield
    finally:
        os.register_at_fork = register


def _nothing() -> None:
    pass


def _close_gate() -> None:
    global _waited_for
    _forking.held = _gate.acquire(timeout=0 if _waited_for == _block else times.FORK_GATE_S)
    if not _forking.held:
        _waited_for = _block
    for hooks in reversed(tuple(_hooks)):
        hooks.before()


def _open_gate_in_parent() -> None:
    if _forking.held:
        _gate.release()


def _open_gate_in_child() -> None:
    global _gate
    _gate = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_gate, after_in_parent=_open_gate_in_parent, after_in_child=_open_gate_in_child)
