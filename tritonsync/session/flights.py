"""Work under way by key, so that nobody starts what another thread is doing already."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Flight", "Flights"]

T = TypeVar("T")


class Flight(Generic[T]):
    """Work that is planned, running or done. Whoever comes first runs it, the others wait for the result."""

    def __init__(self, work: Callable[[float | None], T], landed: Callable[[Flight[T]], None]) -> None:
        self._work = work
        self._landed = landed
        self._lock = threading.Lock()
        self._claimed = False
        self._result: Future[T] = Future()

    def run(self, timeout: float | None) -> bool:
        """Do the work, in so many seconds, unless somebody else has begun; return whether it was done here."""
        with self._lock:
            if self._claimed:
                return False
            self._claimed = True
        try:
            self._result.set_result(self._work(timeout))
        except BaseException as exc:
            self._result.set_exception(exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            self._landed(self)
        return True

    def result(self, timeout: float | None = None) -> T:
        """Return the result, or raise what the work raised; `TimeoutError` if it is not there in time."""
        return self._result.result(timeout)


class Flights(Generic[T]):
    """The flights of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[tuple[str, str], Flight[T]] = {}

    def plan(self, kind: str, key: str, work: Callable[[float | None], T]) -> Flight[T]:
        """Return the flight of this key, and a new one for this work, given its seconds, if there is none."""
        with self._lock:
            flight = self._flights.get((kind, key))
            if flight is None:

                def landed(flight: Flight[T]) -> None:
                    with self._lock:
                        if self._flights.get((kind, key)) is flight:
                            del self._flights[kind, key]

                flight = self._flights[kind, key] = Flight(work, landed)
            return flight

    def get(self, kind: str, key: str) -> Flight[T] | None:
        """Return the flight of this key, if there is one that has not landed."""
        with self._lock:
            return self._flights.get((kind, key))
