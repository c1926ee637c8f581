"""PyTorch's caching precompile between machines: what Dynamo made of a function, and what Inductor made of its graphs.

A function whose result is found is not traced at its first call, and its graphs are not looked up. Inside one process
such a result rests on much that Dynamo takes for given. Here that is part of the key (`precompile_key.py`), or is
compared when the result is loaded (`precompile_entry.py`), or at each call (`precompile_guards.py`). What differs is a
miss. A function of which something cannot be compared is left out, with the reason in the report of `tritonsync run`.

The places that this plugs into were read in torch 2.11 and 2.13. torch's own folder of results is not read where
tritonsync has switched the mode on: its key does not tell apart two functions of one name and line.
"""

from __future__ import annotations

import functools
import inspect
import logging
import time
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tritonsync import times
from tritonsync.plugins.collectives import collectives_of
from tritonsync.plugins.digests import UnknownObjectError, digest_of_source, is_versioned
from tritonsync.plugins.edge import UnknownProgramError, edge
from tritonsync.plugins.precompile_ahead import may_serve, put_ahead, settle, take_out
from tritonsync.plugins.precompile_entry import bytes_of, initialize, put_in_place, start_anew, trouble_with
from tritonsync.plugins.precompile_graph import opaque_call
from tritonsync.plugins.precompile_guards import Kept
from tritonsync.plugins.precompile_key import in_program_state, key_of
from tritonsync.plugins.precompile_process import (
    Function,
    careful,
    functions,
    hash_triton_ahead,
    is_on,
    is_ours,
    own_number,
    patches,
    reason_of,
    remove,
    switch_on,
)
from tritonsync.plugins.precompile_saved_guards import patch_guards
from tritonsync.session import session
from tritonsync.session.process import no_fork
from tritonsync.watch import observer

__all__ = ["patch_eval_frame", "patch_guards", "patch_output_graph", "patch_package", "remove"]

log = logging.getLogger(__name__)

#: Key -> the function that results are published for; the first of several with one key serves them all.
_owners: weakref.WeakValueDictionary[str, Function] = weakref.WeakValueDictionary()
#: The first backend that a code was compiled by, and the codes that were compiled by others too.
_backends: weakref.WeakKeyDictionary[types.CodeType, Any] = weakref.WeakKeyDictionary()
_in_two_ways: weakref.WeakKeyDictionary[types.CodeType, bool] = weakref.WeakKeyDictionary()


# ---- a function is compiled, and called for the first time -----------------------------------------------------------


@careful
def patch_eval_frame(eval_frame: Any) -> None:  # noqa: ANN401
    """Plug into `torch._dynamo.eval_frame`, where `torch.compile` meets its function, and switch the mode on."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def __call__(self: Any, fn: Any) -> Any:  # noqa: ANN401, N807 - it has the name of what it replaces
            package = getattr(self, "_package", None)
            if package is not None and not package.is_initialized() and is_on():
                known = _prepare(self, package, fn)
                if known is not None and is_ours():
                    _put_ahead(self, package, fn, known)
            return original(self, fn)

        return __call__

    patches.replace(eval_frame._TorchDynamoContext, "__call__", ("self", "fn"), make)  # noqa: SLF001
    switch_on()
    hash_triton_ahead()


@edge(None)
def _prepare(context: Any, package: Any, fn: Any) -> Function | None:  # noqa: ANN401
    """Arrange for the first call: then the program is in the state in which it will use the result.

    Returns:
        What is known of the function; None where it is none.
    """
    from torch._dynamo.eval_frame import innermost_backend

    own_number()
    wanted, function = _functions_of(fn)
    if not isinstance(function, (types.FunctionType, types.MethodType)):
        # torch would raise for it, in the user's call.
        package.initialize(_no_function, None, False)
        functions[package] = known = Function(repr(type(fn)))
        known.leave_out("it is no function")
        return None
    functions[package] = known = Function(f"{function.__module__}.{function.__qualname__}")
    _note_backend(function.__code__, innermost_backend(context.callback))
    if is_ours():
        initialize(package, wanted)

    def at_first_call() -> Callable[[], None]:
        context.enter_exit_hooks = [hook for hook in context.enter_exit_hooks if hook is not at_first_call]
        _look_up(context, package, wanted, known)
        return _no_function

    context.enter_exit_hooks.append(at_first_call)
    return known


def _functions_of(fn: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Return the function that a package is made for, and the innermost one in it."""
    import torch
    from torch._dynamo.eval_frame import innermost_fn

    wanted = fn.forward if isinstance(fn, torch.nn.Module) else fn
    return wanted, innermost_fn(wanted)


@edge(None, is_own=False)
def _put_ahead(context: Any, package: Any, fn: Any, known: Function) -> None:  # noqa: ANN401
    from torch._dynamo.eval_frame import innermost_backend

    wanted, function = _functions_of(fn)
    function, backend = getattr(function, "__func__", function), innermost_backend(context.callback)
    if function.__code__ not in _in_two_ways:
        put_ahead(package, function, wanted, backend, context, known, functools.partial(_note_used, known))


def _note_backend(code: types.CodeType, backend: Any) -> None:  # noqa: ANN401
    """Take out what is loaded for a code that the program compiles in a second way.

    Of two ways, Dynamo asks which one a result is of; of one that was loaded it does not, and both would be served.
    """
    if _backends.setdefault(code, backend) != backend and code not in _in_two_ways:
        _in_two_ways[code] = True
        for package, known in list(functions.items()):
            if known.is_loaded and package._innermost_fn.__code__ == code:  # noqa: SLF001
                start_anew(package, package._innermost_fn)  # noqa: SLF001


@careful
def patch_output_graph(output_graph: Any) -> None:  # noqa: ANN401
    """Plug into `torch._dynamo.output_graph`, where names are made of addresses: they get this process's number too."""

    def make(original: Callable[..., str]) -> Callable[..., str]:
        def install_global_by_id(self: Any, prefix: str, value: Any) -> str:  # noqa: ANN401
            if getattr(self, "package", None) in functions:
                prefix = f"{prefix}_{own_number()}"
            return original(self, prefix, value)

        return install_global_by_id

    patches.replace(output_graph.OutputGraph, "install_global_by_id", ("self", "prefix", "value"), make)


def _no_function() -> None:
    pass


@edge(None, is_own=False)
def _look_up(context: Any, package: Any, wanted: Any, known: Function) -> None:  # noqa: ANN401
    """Put what earlier runs made of a function in its place, if it is the same function."""
    import torch
    from torch._C._dynamo.eval_frame import _debug_get_precompile_entries
    from torch._dynamo.convert_frame import compile_lock
    from torch._dynamo.eval_frame import innermost_backend, innermost_fn

    now = session.current()
    is_there = any(entry.guarded_codes for entry in package._codes.values())  # noqa: SLF001
    if now is None or (is_there and known.ahead is None):
        return
    function: Any = innermost_fn(wanted)
    owner = getattr(function, "__self__", None)
    function = getattr(function, "__func__", function)
    try:
        with now.own_time():
            key = known.key = key_of(function, owner, innermost_backend(context.callback), context, now)
    except UnknownObjectError as exc:
        known.leave_out(str(exc))
        take_out(package, wanted, known)
        return
    except Exception:
        take_out(package, wanted, known)
        raise
    if function.__code__ in _in_two_ways:
        known.leave_out("the program compiles it in two ways")
        take_out(package, wanted, known)
        return
    is_in_place = settle(package, function, wanted, known, key)
    if _owners.setdefault(key, known) is not known:
        known.reason = "another function of this process has the same key"
        if _debug_get_precompile_entries(function.__code__):
            return  # what was loaded for that one serves this one as well
    setting = collectives_of("dynamo", now.host.rank())
    if setting is not None:
        known.leave_out(f"the ranks of the job talk to each other while they compile, by {setting}")
        return
    known.device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    offers = now.precompiled(key)
    if is_in_place:
        _next(now, offers)  # so that it is noted as used by this workload
        observer.precompiled(known.name, "restored")
        return
    while (data := _next(now, offers)) is not None:
        with compile_lock:
            refusal = put_in_place(package, wanted, known, data, functools.partial(_note_used, known, data))
        if refusal is None:
            known.is_loaded = True
            observer.precompiled(known.name, "restored")
            return
        log.info("%s is not taken from the cache: %s", known.name, refusal)
        observer.precompiled(known.name, "refused", refusal)


def _next(now: session.Session, offers: Iterator[bytes]) -> bytes | None:
    with now.own_time():
        return next(offers, None)


@edge(None)
def _note_used(known: Function, data: bytes) -> None:
    now = session.current()
    if now is not None and known.key is not None:
        observer.precompiled(known.name, "used")
        now.note_precompiled(known.key, data)


# ---- what was made of a function ------------------------------------------------------------------------------------


@careful
def patch_package(package_module: Any) -> None:  # noqa: ANN401
    """Plug into `torch._dynamo.package`: note what a result is made of, load its guards, and publish it."""
    package_class = package_module.CompilePackage
    patches.replace(package_class, "add_inlined_source", ("self", "sources"), _make_add_inlined_source)
    patches.replace(package_class, "update_device_type", ("self", "graph"), _make_update_device_type)
    patches.replace(package_class, "_add_user_function", ("self", "code"), _make_add_user_function)
    parameters = ("guards_state", "target_code", "runtime_global_scope")
    patches.replace(package_module, "load_guard_manager", parameters, _make_load_guard_manager)
    patches.replace(package_module.DynamoStore, "record_package", ("self", "package"), _make_record_package)
    for name in ("bypass_current_entry", "cache_entry", "initialize", "install", "is_initialized"):
        if not inspect.isfunction(getattr(package_class, name, None)):
            raise UnknownProgramError(f"CompilePackage has no function {name}")


def _make_load_guard_manager(original: Callable[..., Any]) -> Callable[..., Any]:
    def load_guard_manager(guards_state: Any, target_code: Any, runtime_global_scope: Any) -> Any:  # noqa: ANN401
        from torch._dynamo.guards import _get_closure_vars

        facts = getattr(guards_state, "tritonsync", None)
        if facts is None:
            return original(guards_state, target_code, runtime_global_scope)
        with in_program_state(facts["state"]):
            manager = original(guards_state, target_code, runtime_global_scope)
        kept = Kept(facts, runtime_global_scope, _get_closure_vars(), may_serve())
        manager.root.add_lambda_guard(kept, ["what was compared by identity is the same"], None)
        return manager

    return load_guard_manager


def _make_add_inlined_source(original: Callable[..., None]) -> Callable[..., None]:
    def add_inlined_source(self: Any, sources: list[types.CodeType]) -> None:  # noqa: ANN401
        known = functions.get(self)
        if known is None:
            original(self, sources)
            return
        try:
            codes = (code for code in sources if code not in self._resume_codes and code not in known.codes)
            own = list(_not_versioned(codes))
            for _, module in own:
                known.sources[module] = digest_of_source(module)
            # torch keeps the whole text of every module; of its own ones that is for nobody, and slow to load.
            original(self, [code for code, _ in own] if is_ours() else sources)
        except Exception as exc:  # noqa: BLE001 - torch raises where a file has changed, in the user's call
            known.leave_out(reason_of(exc))
            self.bypass_current_entry()

    return add_inlined_source


def _not_versioned(codes: Iterable[types.CodeType]) -> Iterator[tuple[types.CodeType, str]]:
    for code in codes:
        if code.co_filename.startswith("<frozen "):
            continue  # of the standard library
        module = inspect.getmodule(code)
        if module is None:
            raise UnknownObjectError(f"{code.co_name} in {code.co_filename} belongs to no module")
        if not is_versioned(module.__name__):
            yield code, module.__name__


def _make_update_device_type(original: Callable[..., None]) -> Callable[..., None]:
    def update_device_type(self: Any, graph: Any) -> None:  # noqa: ANN401
        original(self, graph)
        known = functions.get(self)
        if known is not None:
            called = opaque_call(graph)
            if called is not None:
                known.leave_out(f"a graph calls {called}, whose code Dynamo has not seen")

    return update_device_type


def _make_add_user_function(original: Callable[..., None]) -> Callable[..., None]:
    def _add_user_function(self: Any, code: types.CodeType) -> None:  # noqa: ANN401
        known = functions.get(self)
        if known is None:
            original(self, code)
            return
        try:
            original(self, code)
        except Exception as exc:  # noqa: BLE001 - torch raises for it in the user's call
            known.leave_out(reason_of(exc))
            self._add_function(code, __name__)
            self._codes[code].bypassed = True

    return _add_user_function


def _make_record_package(original: Callable[..., None]) -> Callable[..., None]:
    def record_package(self: Any, package: Any) -> None:  # noqa: ANN401
        original(self, package)
        _publish(package)

    return record_package


@edge(None)
def _publish(package: Any) -> None:  # noqa: ANN401
    """Publish what there is of a function a while after it was last compiled."""
    now, known = session.current(), functions.get(package)
    if now is None or known is None or known.key is None or known.reason is not None or known.is_queued:
        return
    known.is_queued = True
    now.enqueue_precompiled(known.key, functools.partial(_made, package, known))


def _made(package: Any, known: Function) -> bytes | None:  # noqa: ANN401
    """Return what there is of a function, once it has been loaded back; on an upload thread."""
    import torch

    known.is_queued = False
    data = _unless_compiling(functools.partial(bytes_of, package, known))
    if data is None:
        return None
    if known.device is not None:
        torch.cuda.set_device(known.device)  # of this thread
    reason = trouble_with(data)
    if reason is not None:
        known.leave_out(reason)
        return None
    observer.precompiled(known.name, "published")
    return data


def _unless_compiling(work: Callable[[], bytes | None]) -> bytes | None:
    """Do something while nothing compiles, and nobody forks: a child could never open the lock again."""
    from torch._dynamo.convert_frame import compile_lock

    end = time.monotonic() + times.UPLOAD_S
    while time.monotonic() < end:
        with no_fork():
            if compile_lock.acquire(blocking=False):
                try:
                    return work()
                finally:
                    compile_lock.release()
        time.sleep(times.PAUSE_S)
    return None
