"""A result is put in place when `torch.compile` is called, and serves once the first call has found it to be its own.

To load a result takes longer than to call it, and a program that calls `torch.compile` is preparing its model: torch
loads its own results there too (torch/_dynamo/eval_frame.py `_TorchDynamoContext.__call__`, 2.11 and 2.13). Which
result the first call will ask for is not known before: it depends on the state in which torch is then. So what this
host has, or has fetched ahead, of the same function is loaded, never waited for; it refuses all calls until the first
one has asked for the same key, and is taken out again where that asks for another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any

from tritonsync.plugins.digests import UnknownObjectError
from tritonsync.plugins.precompile_entry import is_same, put_in_place, start_anew
from tritonsync.plugins.precompile_key import beginning_of_key
from tritonsync.plugins.precompile_process import Function
from tritonsync.session import session

__all__ = ["may_serve", "put_ahead", "settle", "take_out"]

#: The function whose result is being loaded ahead; set and read under torch's compile lock.
_loading: Function | None = None


@dataclasses.dataclass(frozen=True)
class Ahead:
    """A result that was put in place ahead.

    Attributes:
        key: that it is of.
        place: what its guards were made anew from.
    """

    key: str
    place: tuple[Any, ...]


def put_ahead(
    package: Any,  # noqa: ANN401
    function: types.FunctionType,
    wanted: Any,  # noqa: ANN401
    backend: Any,  # noqa: ANN401
    context: Any,  # noqa: ANN401
    known: Function,
    used: Callable[[bytes], None],
) -> None:
    """Put what is here of a function in its place.

    Args:
        package: torch's, nothing in it yet.
        function: the innermost one.
        wanted: the function, as the package was made for it.
        backend: what `torch.compile` was given, made an object by torch.
        context: Dynamo's, made by `torch.compile`.
        known: what is known of it.
        used: called with the result when one of its graphs runs for the first time.
    """
    from torch._C._dynamo.eval_frame import _debug_get_precompile_entries
    from torch._dynamo.convert_frame import compile_lock

    now = session.current()
    if now is None or _debug_get_precompile_entries(function.__code__):
        return
    try:
        with now.own_time():
            found = now.precompiled_at_hand(beginning_of_key(function, backend, context, now))
    except UnknownObjectError:
        return  # said at the first call
    if found is None:
        return
    key, data = found
    with compile_lock, _loaded_for(known):
        known.is_settled = False
        try:
            if put_in_place(package, wanted, known, data, lambda: used(data), may_import=False) is None:
                known.is_loaded, known.ahead = True, Ahead(key, _place())
        finally:
            known.is_settled = known.ahead is None


def settle(package: Any, function: types.FunctionType, wanted: Any, known: Function, key: str) -> bool:  # noqa: ANN401
    """Let what was put in place ahead serve, if it is of this key; take it out if not. Return whether it serves."""
    from torch._C._dynamo.eval_frame import _debug_get_precompile_entries

    ahead = known.ahead
    if (
        ahead is not None
        and (ahead.key, ahead.place) == (key, _place())
        and _debug_get_precompile_entries(function.__code__)  # not after `torch._dynamo.reset`
        and is_same(package, known)
    ):
        known.is_settled, known.ahead = True, None
        return True
    take_out(package, wanted, known)
    return False


def take_out(package: Any, wanted: Any, known: Function) -> None:  # noqa: ANN401
    """Take out what was put in place ahead and has not served."""
    from torch._dynamo.convert_frame import compile_lock

    if known.ahead is None:
        return
    with compile_lock:
        start_anew(package, wanted)
    known.is_loaded, known.is_settled, known.ahead = False, True, None
    for made_of in (known.sources, known.classes, known.states):
        made_of.clear()


def may_serve() -> Callable[[], bool] | None:
    """Return how what is being loaded now learns that it may serve; None: it may at once."""
    known = _loading
    return None if known is None else lambda: known.is_settled


@contextlib.contextmanager
def _loaded_for(known: Function) -> Iterator[None]:
    global _loading
    _loading = known
    try:
        yield
    finally:
        _loading = None


def _place() -> tuple[Any, ...]:
    """Return what a result takes from the program where it is loaded: its guards, and the device of its kernels."""
    import torch

    c = torch._C  # noqa: SLF001
    return (
        torch.cuda.current_device() if torch.cuda.is_initialized() else None,
        str(torch.utils._device.CURRENT_DEVICE),  # noqa: SLF001
        c._autograd._top_saved_tensors_default_hooks(True) is None,  # noqa: SLF001
        c._len_torch_function_stack(),  # noqa: SLF001
    )
