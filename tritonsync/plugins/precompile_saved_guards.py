"""Plugs into `torch._dynamo.guards`: the program keeps its guards, and what is saved has facts in their place."""

from __future__ import annotations

import inspect
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from tritonsync.plugins.digests import UnknownObjectError
from tritonsync.plugins.precompile_guards import facts_of_guards, function_of, is_by_identity, parts_of_function
from tritonsync.plugins.precompile_process import careful, config, functions, is_on, patches, reason_of

__all__ = ["patch_guards"]


class _Carried(threading.local):
    """What goes along with the guards that this thread is about to pickle."""

    facts: dict[str, Any] | None = None


_carried = _Carried()


@careful
def patch_guards(guards: Any) -> None:  # noqa: ANN401
    """Plug into `torch._dynamo.guards`: the program keeps its guards, and what is saved has facts in their place."""
    manager = guards.CheckFunctionManager
    signature = inspect.signature(manager.__init__)
    unsupported = frozenset(manager.UNSUPPORTED_SERIALIZATION_GUARD_TYPES)

    def make_init(original: Callable[..., None]) -> Callable[..., None]:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, N807 - as above
            given = signature.bind(self, *args, **kwargs).arguments
            if not given.get("save_guards") or not is_on():
                original(self, *args, **kwargs)
                return
            self._tritonsync = given["f_code"], given.get("guard_filter_fn")
            with config().patch(caching_precompile=False):
                original(self, *args, **kwargs)

        return __init__

    def make_serialize(original: Callable[..., bytes]) -> Callable[..., bytes]:
        def serialize_guards(self: Any, builder: Any, sorted_guards: list[Any], output_graph: Any) -> bytes:  # noqa: ANN401
            package = getattr(output_graph, "package", None)
            known = functions.get(package) if package is not None else None
            code, chosen = getattr(self, "_tritonsync", (None, None))
            if known is not None and chosen is not None:
                known.leave_out("its guards are filtered by a function of the user's")
            if package is None or known is None or code is None:
                return original(self, builder, sorted_guards, output_graph)
            try:
                facts = facts_of_guards(builder, sorted_guards, unsupported, known.codes)
                kept = [guard for guard in sorted_guards if not is_by_identity(guard, unsupported)]
                data = save(original, self, code, kept, output_graph, facts)
            except Exception as exc:
                if config().strict_precompile:
                    raise
                known.leave_out(reason_of(exc))
                package.bypass_current_entry()
                output_graph.package = None
                return b""
            known.classes.update(facts["classes"])
            known.states.add(data)
            return data

        return serialize_guards

    def save(
        original: Callable[..., bytes],
        manager: Any,  # noqa: ANN401
        code: types.CodeType,
        kept: list[Any],
        output_graph: Any,  # noqa: ANN401
        facts: dict[str, Any],
    ) -> bytes:
        """Pickle guards, and load them once: they must hold for the call that made them."""
        import torch
        from torch._dynamo.package import load_guard_manager, load_guards_state
        from torch.utils._ordered_set import OrderedSet

        entry = output_graph.package._current_entry  # noqa: SLF001
        scope = vars(sys.modules[entry.python_module])
        if output_graph.global_scope is not scope:
            raise UnknownObjectError(f"its globals are not those of {entry.python_module}")
        for name in output_graph.installed_globals - _names_brought(output_graph.package, output_graph):
            # Dynamo names some modules by their address, and tells its package only of those it names otherwise.
            module = scope.get(name)
            if not isinstance(module, types.ModuleType) or sys.modules.get(module.__name__) is not module:
                raise UnknownObjectError(f"its bytecode needs an object of this process, a {type(module).__name__}")
            output_graph.package.add_import_source(name, module.__name__)
        # What a guard that is left out looked at is not to be pickled with the others.
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            manager.torch_function_mode_stack = output_graph.torch_function_mode_stack  # dropped once it is used
            builder, _ = manager.build_guards(kept, OrderedSet(), code, output_graph, True)
        _carried.facts = facts
        try:
            data = original(manager, builder, kept, output_graph)
        finally:
            _carried.facts = None
        loaded = load_guard_manager(load_guards_state(data), code, scope)
        if not loaded.check(output_graph.local_scope):
            raise UnknownObjectError("its guards do not hold when they are loaded back")
        return data

    def make_pickle(original: Callable[..., bytes]) -> Callable[..., bytes]:
        def pickle_guards_state(state: Any, builder: Any) -> bytes:  # noqa: ANN401
            if _carried.facts is not None:
                state.tritonsync = _carried.facts
            return original(state, builder)

        return pickle_guards_state

    def make_reducer(original: Callable[..., Any]) -> Callable[..., Any]:
        def reducer_override(self: Any, obj: Any) -> Any:  # noqa: ANN401
            is_left_out = id(obj) in self.empty_values or id(obj) in self.missing_values
            if _carried.facts is not None and type(obj) is types.FunctionType and not is_left_out:
                parts = parts_of_function(obj, self.guard_tree_values, guards._Missing())  # noqa: SLF001
                if parts is not None:
                    return function_of, parts
            return original(self, obj)

        return reducer_override

    patches.replace(guards.GuardsStatePickler, "reducer_override", ("self", "obj"), make_reducer)
    patches.replace(manager, "__init__", tuple(signature.parameters), make_init)
    patches.replace(manager, "serialize_guards", ("self", "builder", "sorted_guards", "output_graph"), make_serialize)
    patches.replace(guards, "pickle_guards_state", ("state", "builder"), make_pickle)


def _names_brought(package: Any, output_graph: Any) -> set[str]:  # noqa: ANN401
    """Return the names that a loaded result puts into the globals of its module."""
    entry = package._current_entry  # noqa: SLF001
    resumed = (name for code in package._codes.values() for name in code.function_names)  # noqa: SLF001
    builtins = output_graph.name_of_builtins_dict_key_in_fglobals
    return {*entry.import_sources, *entry.backend_ids, *resumed, builtins}
