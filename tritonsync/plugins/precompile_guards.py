"""Guards by identity, in a form that another process can check.

PyTorch's mode drops the guards that compare an object by identity (CLOSURE_MATCH, FUNCTION_MATCH, CLASS_MATCH,
MODULE_MATCH, BUILTIN_MATCH, ID_MATCH), and not only in what it saves: the running program loses them as well
(torch/_dynamo/guards.py `CheckFunctionManager`, 2.11 and 2.13). Here the running program keeps all of its guards. What
is saved has, in place of each dropped guard, the digest of the object it was about; what is loaded compares the digests
of the objects that it meets, once for each of them, and from then on their identity.

A guard of another kind that cannot be saved, or an object without a digest, keeps the function out of the cache.
"""

from __future__ import annotations

import importlib
import operator
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from tritonsync.plugins.digests import UnknownObjectError, digest_of, is_versioned
from tritonsync.plugins.precompile_key import program_state

__all__ = ["Kept", "facts_of_guards", "function_of", "is_by_identity", "parts_of_function"]

#: Guards that ask for one object and nothing else.
_IDENTITY = frozenset({
    "BUILTIN_MATCH", "CLASS_MATCH", "CLOSURE_MATCH", "CONSTANT_MATCH", "FUNCTION_MATCH", "ID_MATCH", "MODULE_MATCH",
})  # fmt: skip
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
#: Sets of objects that one loaded result remembers to have checked.
_MAX_SEEN = 8


def is_by_identity(guard: Any, unsupported: frozenset[str]) -> bool:  # noqa: ANN401
    """Whether a guard cannot be saved as it is; `unsupported`: types of guards that torch does not save."""
    return guard.create_fn_name() in unsupported or not unsupported.isdisjoint(guard.guard_types or ())


def facts_of_guards(
    builder: Any,  # noqa: ANN401
    guards: list[Any],
    unsupported: frozenset[str],
    codes: set[types.CodeType],
) -> dict[str, Any]:
    """Return what is saved with the guards of one result.

    Args:
        builder: torch's `GuardBuilder`, which has the objects.
        guards: all of them.
        unsupported: types of guards that torch does not save.
        codes: gets the code of all functions that a digest stands for.

    Returns:
        `state`, as `program_state` returned it; `objects`, (source, digest) in place of each guard by identity; and
        `classes`, the digests of the classes that guards on types name.

    Raises:
        UnknownObjectError: one of them cannot be checked in another process.
    """
    objects: dict[str, str] = {}
    classes: dict[tuple[str, str], str] = {}
    for guard in guards:
        if is_by_identity(guard, unsupported):
            kind = guard.create_fn_name()
            if kind not in _IDENTITY:
                raise UnknownObjectError(f"it depends on a {kind} guard on {guard.name}")
            try:
                objects[guard.name] = digest_of(builder.get(guard), codes)
            except UnknownObjectError as exc:
                raise UnknownObjectError(f"{guard.name}: {exc}") from exc
        elif "TYPE_MATCH" in (guard.create_fn_name(), *(guard.guard_types or ())):
            cls = type(builder.get(guard))
            if not is_versioned(cls.__module__) and (cls.__module__, cls.__qualname__) not in classes:
                classes[cls.__module__, cls.__qualname__] = digest_of(cls, codes)
    return {"state": program_state(), "objects": sorted(objects.items()), "classes": classes}


class Kept:
    """One more guard of a loaded result, in place of those that were dropped.

    Args:
        facts: from `facts_of_guards`, of the process that made the result.
        scope: the globals of the function.
        names: what else the sources of guards may name.
        may_serve: whether it may be used for any call yet; None: it may.
    """

    def __init__(
        self,
        facts: Mapping[str, Any],
        scope: dict[str, Any],
        names: Mapping[str, Any],
        may_serve: Callable[[], bool] | None = None,
    ) -> None:
        self._state = tuple(facts["state"])
        self._digests = [digest for _, digest in facts["objects"]]
        sources = "".join(f"{source}, " for source, _ in facts["objects"])
        self._objects: Callable[[Any, Any], tuple[Any, ...]] = eval(f"lambda L, G: ({sources})", dict(names))  # noqa: S307 - as torch does; the text came with a checked manifest
        self._scope, self._may_serve = scope, may_serve
        self._seen: list[tuple[tuple[Any, ...], bool]] = []

    def __call__(self, local_scope: Any) -> bool:  # noqa: ANN401
        """Whether the result may be used for a call with these locals."""
        if self._may_serve is not None:
            if not self._may_serve():
                return False
            self._may_serve = None
        try:
            if program_state() != self._state:
                return False
            objects = self._objects(local_scope, self._scope)
            for seen, is_same in self._seen:
                if all(map(operator.is_, seen, objects)):
                    return is_same
            is_same = [digest_of(each) for each in objects] == self._digests
        except Exception:  # noqa: BLE001 - what cannot be looked at is not the same
            return False
        if len(self._seen) < _MAX_SEEN:
            self._seen.append((objects, is_same))
        return is_same


def parts_of_function(
    function: types.FunctionType, kept: Mapping[int, object], missing: object
) -> tuple[Any, ...] | None:
    """Return the arguments of `function_of`, for a function that is not found by its name; None for one that is.

    torch puts a placeholder in the place of a function that its decorator has hidden, and fails where a guard looks
    into it (torch/_dynamo/guards.py `GuardsStatePickler`, 2.11 and 2.13).

    Args:
        function: that guards look into.
        kept: what guards look at, by id.
        missing: stands for what they do not look at.
    """
    home = function.__globals__.get("__name__")
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is function or home not in sys.modules or vars(sys.modules[home]) is not function.__globals__:
        return None
    cells = None
    if function.__closure__ is not None:
        contents = [_content(cell, missing) for cell in function.__closure__]
        cells = tuple(each if id(each) in kept or isinstance(each, _PLAIN) else missing for each in contents)
    wrapped = {name: value for name, value in vars(function).items() if name == "__wrapped__" and id(value) in kept}
    names = (home, function.__module__, function.__name__, function.__qualname__)
    return function.__code__, names, function.__defaults__, function.__kwdefaults__, cells, wrapped


def function_of(
    code: types.CodeType,
    names: tuple[str, str, str, str],
    defaults: tuple[Any, ...] | None,
    kwdefaults: dict[str, Any] | None,
    contents: tuple[Any, ...] | None,
    attributes: dict[str, Any],
) -> types.FunctionType:
    """Return a function for guards to look into; it is never called."""
    home, module, name, qualname = names
    cells = None if contents is None else tuple(map(types.CellType, contents))
    function = types.FunctionType(code, vars(importlib.import_module(home)), name, defaults, cells)
    function.__module__, function.__qualname__, function.__kwdefaults__ = module, qualname, kwdefaults
    vars(function).update(attributes)
    return function


def _content(cell: types.CellType, missing: object) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return missing
