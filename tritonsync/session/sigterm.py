"""SIGTERM: what is to be uploaded is flushed first, whatever the main thread is doing.

Python runs the handler of a signal in the main thread, once that is back from C, and a collective that hangs never
comes back. What runs at once, on whichever thread, is Python's own part of it, and that writes the number of the signal
to the wakeup descriptor (`signal.set_wakeup_fd`), which a thread of ours reads.

A process has only one such descriptor. Where the program has one (asyncio sets it for its own handlers), or sets it
later, the handler tells the thread.

A program may set a handler of its own later, and Python goes on writing to our descriptor. The signal is that handler's
then: nothing is flushed unless it calls ours, and nothing here ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType

from tritonsync import times

__all__ = ["at_sigterm"]

#: `struct ucred` of Linux: pid, user and group of who wrote a message.
_CREDENTIALS = struct.Struct("3i")
_NO_DESCRIPTOR = -1
#: What the thread is told: SIGTERM is ours to handle (what Python writes), or a handler of the program's calls ours.
_OURS, _CALLED = bytes([signal.SIGTERM]), b"\0"


class _Sigterm:
    """Handles SIGTERM: calls back on a thread of its own, then lets the signal have its usual effect, if it is ours.

    A handler runs inside whatever the main thread was doing, whose locks it must not wait for; so this one only tells
    the thread, and the program goes on until that is done.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._is_done = False
        self._told, self._tell = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._tell.setblocking(False)
        if hasattr(socket, "SO_PASSCRED"):
            self._told.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        threading.Thread(target=self._wait, name="tritonsync-sigterm", daemon=True).start()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        is_ours = number == signal.SIGTERM and signal.getsignal(number) is self
        if not self._is_done:
            try:
                self._tell.send(_OURS if is_ours else _CALLED)
            except BlockingIOError:  # the thread has been told, many times
                return
            except OSError:  # the program has closed what is not its own, and nobody can be told
                self._is_done = True
        if self._is_done and is_ours:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def be_woken(self) -> None:
        """Have Python itself tell the thread, unless the program uses that for something else.

        A child between its fork and its exec shares the descriptor, and would tell the thread of signals that were
        sent to it. Linux says who wrote a message; elsewhere that is left to the handler.
        """
        if not hasattr(socket, "SO_PASSCRED"):
            return
        others = signal.set_wakeup_fd(self._tell.fileno(), warn_on_full_buffer=False)
        if others != _NO_DESCRIPTOR:
            signal.set_wakeup_fd(others)

    def forget(self) -> None:
        """Undo it all, in a forked child: the thread does not exist there, and the sockets are its parent's."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        others = signal.set_wakeup_fd(_NO_DESCRIPTOR)
        if others not in (_NO_DESCRIPTOR, self._tell.fileno()):
            signal.set_wakeup_fd(others)
        self._told.close()
        self._tell.close()

    def _wait(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                told, said_by, _, _ = self._told.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
                if not _is_from_here(said_by) or not (told == _CALLED or (told == _OURS and not self._is_anothers())):
                    continue
                with contextlib.suppress(Exception):
                    self._callback()
                self._is_done = True
                if told == _OURS and not self._is_anothers():
                    self._end()

    def _is_anothers(self) -> bool:
        """Whether the program has set a handler of its own, which decides what becomes of the process."""
        return signal.getsignal(signal.SIGTERM) not in (self, signal.SIG_DFL)

    def _end(self) -> None:
        """Let the signal have its usual effect."""
        with contextlib.suppress(Exception):  # a Python without ctypes: the handler does it, in the main thread
            if signal.getsignal(signal.SIGTERM) is self:
                _restore_default(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(times.STUCK_S)
        os._exit(128 + signal.SIGTERM)


def _is_from_here(said_by: Iterable[tuple[int, int, bytes]]) -> bool:
    """Whether this process wrote a message, as far as the system says."""
    pids = [_CREDENTIALS.unpack_from(data)[0] for *_, data in said_by if len(data) >= _CREDENTIALS.size]
    return not pids or os.getpid() in pids


def _restore_default(number: int) -> None:
    """Let a signal have its usual effect; `signal.signal` does that in the main thread only."""
    import ctypes

    restore = ctypes.pythonapi.PyOS_setsig
    restore.argtypes, restore.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    restore(number, None)  # SIG_DFL is NULL


def at_sigterm(callback: Callable[[], None]) -> bool:
    """Call back before SIGTERM ends this process; return whether that could be arranged.

    Only where nobody else handles it, and only from the main thread, as Python asks for. Afterwards the signal has its
    usual effect, so whoever waits for the process sees that it ended by SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    try:
        handler = _Sigterm(callback)
    except (OSError, RuntimeError, AttributeError):  # no socket or no thread can be had
        return False
    signal.signal(signal.SIGTERM, handler)
    handler.be_woken()
    return True


def _reset_in_child() -> None:
    # A child that is told to go before it has anything to publish just goes.
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _Sigterm):
        handler.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
