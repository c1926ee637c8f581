"""The edge to a host program: what it calls of ours never raises, and what we change in it can be put back."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar, cast

from tritonsync.messages import warn_once
from tritonsync.redaction import traceback_of
from tritonsync.session import session

__all__ = ["Patches", "UnknownProgramError", "edge", "never_raise"]

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class UnknownProgramError(Exception):
    """Something of the host program is not as it was in the versions that are known; it never leaves `plugins`."""


def never_raise(name: str, *, is_own: bool = True) -> AbstractContextManager[None, bool]:
    """Leave the block where it raises, and say so once per cause; with TRITONSYNC_STRICT=1, raise.

    Args:
        name: of what the block does, for people.
        is_own: whether its time counts as our own; if not, it is the host program's.
    """
    # mypy believes of `contextmanager` that nothing is ever caught.
    return cast("AbstractContextManager[None, bool]", _never_raise(name, is_own))


@contextlib.contextmanager
def _never_raise(name: str, is_own: bool) -> Iterator[None]:
    now = None
    with contextlib.suppress(Exception):  # the block asks for the session again where it needs it, and fails there
        now = session.current()
    try:
        with now.own_time() if now is not None and is_own else contextlib.nullcontext():
            yield
    except Exception as exc:
        if now is not None and now.settings.strict:
            raise
        warn_once(log, f"{name} {type(exc).__name__}", "%s failed; the program goes on without it: %r", name, exc)
        log.debug("where it failed\n%s", traceback_of(exc))


def edge(
    fallback: Any,  # noqa: ANN401 - a T, as an instance of it
    *,
    is_own: bool = True,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return `fallback` where the function raises; see `never_raise`."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            with never_raise(f"{function.__module__}.{function.__qualname__}", is_own=is_own):
                return function(*args, **kwargs)
            return cast("T", fallback)

        return guarded

    return decorate


class Patches:
    """Attributes of a host program that were replaced, and what was there before."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def replace(self, owner: Any, name: str, parameters: tuple[str, ...], make: Callable[[Any], Any]) -> None:  # noqa: ANN401
        """Replace a function by what `make` makes of it.

        Args:
            owner: the class or module that has it.
            name: its name there.
            parameters: names of its parameters in the versions that are known.
            make: given the original function; static and class methods come as the plain function and go back as such.

        Raises:
            UnknownProgramError: it is not there, or has other parameters.
        """
        static = inspect.getattr_static(owner, name, None)
        function = static.__func__ if isinstance(static, (staticmethod, classmethod)) else static
        if not inspect.isfunction(function):
            raise UnknownProgramError(f"{owner.__name__} has no function {name}")
        found = tuple(inspect.signature(function).parameters)
        if found != parameters:
            raise UnknownProgramError(f"{owner.__name__}.{name} has the parameters {found} instead of {parameters}")
        new: Any = functools.wraps(function)(make(function))
        if isinstance(static, (staticmethod, classmethod)):
            new = type(static)(new)
        if name in vars(owner):
            self._undo.append(lambda: setattr(owner, name, static))
        else:
            self._undo.append(lambda: delattr(owner, name))
        setattr(owner, name, new)

    def undo(self) -> None:
        """Put back what was there before, last replaced first."""
        while self._undo:
            self._undo.pop()()
