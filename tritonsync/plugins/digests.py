"""Digests of live objects that another process can work out as well: what stands for the identity of an object.

Dynamo's guards compare functions, classes and modules by identity, which means nothing elsewhere. Two objects with one
digest do the same: a function by its bytecode, its defaults and what it closes over, a class by the code of its whole
hierarchy, a kernel written in Triton by Triton's own key. Classes and modules of torch, Triton and the standard library
are told by their names, because their versions are compared elsewhere. What cannot be told apart for certain raises
`UnknownObjectError`.

An object that is only part of another one, such as a list that a function closes over, is told by its type: where its
content was read, a guard of its own holds it.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.util
import inspect
import operator
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

__all__ = ["UnknownObjectError", "digest_of", "digest_of_code", "digest_of_source", "is_versioned"]

#: Packages whose version stands for their content, beside the standard library.
_VERSIONED = frozenset({"torch", "triton"})
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_BUILTINS = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
#: What torch has one of, by the name of its type: it is what it prints as.
_TORCH_CONSTANTS = frozenset({"dtype", "device", "layout", "memory_format", "Size", "OpOverload", "OpOverloadPacket"})
#: Entries of a class that say nothing of what its code does.
_NOT_CODE = frozenset({
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__",
    "__conditional_annotations__", "__dict__", "__doc__", "__firstlineno__", "__module__", "__orig_bases__",
    "__parameters__", "__static_attributes__", "__weakref__", "_abc_impl",
})  # fmt: skip


class UnknownObjectError(Exception):
    """An object of which nothing is known that would be the same in another process."""


def digest_of(value: object, codes: set[types.CodeType] | None = None) -> str:
    """Return 64 hex digits that stand for an object that is compared by identity.

    Args:
        value: the object.
        codes: given, it gets the code of every function that the digest stands for.

    Raises:
        UnknownObjectError: it is of a kind that cannot be told apart, or whose content may change.
    """
    description = _Description()
    digest = _hash(description.of(value))
    if codes is not None:
        codes |= description.codes
    return digest


def digest_of_code(code: types.CodeType) -> str:
    """Return 64 hex digits of what a code object does; in which file and line it stands does not count."""
    return _hash(_code(code))


def digest_of_source(name: str) -> str:
    """Return 64 hex digits of the source text of an imported module, as it was when it was first asked for.

    Raises:
        UnknownObjectError: it is not imported, or has no source.
    """
    try:
        return hashlib.sha256(inspect.getsource(sys.modules[name]).encode()).hexdigest()
    except (KeyError, OSError, TypeError) as exc:
        raise UnknownObjectError(f"the source of module {name} cannot be read") from exc


def is_versioned(module: str | None) -> bool:
    """Whether a module belongs to a package whose version stands for its content."""
    package = None if module is None else module.partition(".")[0]
    return package is not None and (package in _VERSIONED or _is_standard(package))


@functools.cache
def _is_standard(package: str) -> bool:
    """Whether a module comes with Python; a program's own may have the name of one, such as `sched`."""
    if package not in sys.stdlib_module_names or package == "__main__":
        return False
    try:
        spec = getattr(sys.modules.get(package), "__spec__", None) or importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    origin = Path(spec.origin)
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    is_installed = {"site-packages", "dist-packages"} & set(origin.parts)
    return not is_installed and any(library and origin.is_relative_to(library) for library in libraries)


def _hash(parts: Any) -> str:  # noqa: ANN401
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _code(code: types.CodeType) -> Any:  # noqa: ANN401
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return ("code", code.co_code, counts, names, [_constant(each) for each in code.co_consts])


def _constant(value: object) -> Any:  # noqa: ANN401
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, frozenset):
        return ("frozenset", sorted(repr(_constant(each)) for each in value))  # their order differs by process
    if isinstance(value, tuple):
        return ("tuple", [_constant(each) for each in value])
    return (type(value).__name__, repr(value))


class _Description:
    """Describes one object; nested tuples and lists whose `repr` is the same in every process."""

    def __init__(self) -> None:
        self._inside: list[object] = []
        self.codes: set[types.CodeType] = set()

    def of(self, value: object) -> Any:  # noqa: ANN401
        """Describe an object that is compared by identity."""
        if isinstance(value, tuple) and type(value) is tuple:
            return ("tuple", [self.of(each) for each in value])
        known = self._known(value)
        if known is None:
            raise UnknownObjectError(f"a {_name(type(value))} is compared by identity")
        return known

    def _part(self, value: object) -> Any:  # noqa: ANN401
        """Describe an object that is part of another one."""
        if type(value) in (tuple, list):
            return (type(value).__name__, [self._part(each) for each in value])  # type: ignore[attr-defined]
        return self._known(value) or ("instance", _name(type(value)))

    def _known(self, value: Any) -> Any:  # noqa: ANN401
        for number, outer in enumerate(self._inside):
            if outer is value:
                return ("again", number)
        self._inside.append(value)
        try:
            return self._describe(value)
        finally:
            self._inside.pop()

    def _describe(self, value: Any) -> Any:  # noqa: ANN401
        kind = type(value)
        if isinstance(value, enum.Enum):
            return ("enum", self._class(kind), value.name)
        if kind in _PLAIN or kind in (types.CodeType, frozenset):
            return _constant(value)
        if kind is types.FunctionType:
            return self._function(value)
        if kind is types.MethodType:
            return ("method", self._part(value.__func__), self._part(value.__self__), self._class(type(value.__self__)))
        if kind in (staticmethod, classmethod):
            return (kind.__name__, self._part(value.__func__))
        if kind is property:
            return ("property", self._part((value.fget, value.fset, value.fdel)))
        if kind is types.ModuleType:
            return ("module", value.__name__)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, _BUILTINS):
            return self._builtin(value)
        package = kind.__module__.partition(".")[0]
        if package == "triton":
            return self._kernel(value)
        if package == "torch" and kind.__name__ in _TORCH_CONSTANTS:
            return (kind.__name__, str(value))
        if kind.__module__ == "operator":
            return ("operator", repr(value))
        return None

    def _function(self, function: types.FunctionType) -> Any:  # noqa: ANN401
        self.codes.add(function.__code__)
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(self._part(cell.cell_contents))
            except ValueError:  # noqa: PERF203 - not filled yet
                cells.append("empty")
        # `__module__` and `__qualname__` are what a decorator says; the globals are those it really has.
        home = (function.__globals__.get("__name__"), function.__module__, function.__qualname__)
        defaults = (function.__defaults__, sorted((function.__kwdefaults__ or {}).items(), key=operator.itemgetter(0)))
        return ("function", home, _code(function.__code__), self._part(_listed(defaults)), cells)

    def _class(self, cls: type) -> Any:  # noqa: ANN401
        """Describe a class by the code of every class that it inherits from."""
        hierarchy: list[Any] = []
        for each in cls.__mro__:
            if _is_versioned_class(each):
                hierarchy.append(_name(each))
                continue
            body = sorted(_body(each), key=operator.itemgetter(0))
            hierarchy.append((_name(each), [(name, self._entry(value)) for name, value in body]))
        return ("class", hierarchy)

    def _entry(self, value: object) -> Any:  # noqa: ANN401
        # A class inside a class would lead through half of a program.
        return _name(value) if isinstance(value, type) else self._part(value)

    def _builtin(self, value: Any) -> Any:  # noqa: ANN401
        owner, module = getattr(value, "__self__", None), str(getattr(value, "__module__", None))
        name = getattr(value, "__name__", "")
        if is_versioned(module) and getattr(sys.modules.get(module), name, None) is value:
            return ("builtin", module, name)  # those of pybind11 are bound to a record of their own
        if owner is not None and not isinstance(owner, (type, types.ModuleType)):
            return None  # a bound method: what it is bound to counts
        home = getattr(value, "__module__", None) or getattr(value, "__objclass__", None) or owner
        return ("builtin", _name(home) if isinstance(home, type) else str(home), value.__qualname__)

    def _kernel(self, value: Any) -> Any:  # noqa: ANN401
        """Describe a kernel written in Triton: its source by Triton's own key, and what chooses its parameters."""
        key = getattr(value, "cache_key", None)
        if isinstance(key, str):
            return ("kernel", key)
        chooser = getattr(value, "configs", None) or getattr(value, "values", None)
        if hasattr(value, "fn") and isinstance(chooser, (list, dict)):
            listed = list(chooser.items()) if isinstance(chooser, dict) else [vars(config) for config in chooser]
            return (type(value).__name__, self._known(value.fn), self._part(_listed(listed)))
        return None


def _listed(value: Any) -> Any:  # noqa: ANN401
    """Return nested containers as lists."""
    if isinstance(value, dict):
        return [[key, _listed(item)] for key, item in value.items()]
    return [_listed(each) for each in value] if isinstance(value, (tuple, list)) else value


def _body(cls: type) -> list[tuple[str, object]]:
    return [(name, value) for name, value in vars(cls).items() if name not in _NOT_CODE]


def _is_versioned_class(cls: type) -> bool:
    if not is_versioned(cls.__module__):
        return False
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    # One that only says so, or that was made in a function, is described whole.
    return found is cls or cls.__module__ == "builtins"


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
