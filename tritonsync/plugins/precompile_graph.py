"""Which graphs hold all of their code: those that call nothing but torch.

Dynamo traces into Python, and notes what it has traced. A function that it puts into the graph as it is
(`allow_in_graph`) is traced later, by AOTAutograd, which notes nothing; nor does it for an operator of the user's own.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

from tritonsync.plugins.digests import is_versioned

__all__ = ["opaque_call"]

#: Namespaces of operators that come with torch.
_OPERATORS = frozenset({"_c10d_functional", "aten", "c10d_functional", "inductor", "prim", "prims"})


def opaque_call(graph: Any) -> str | None:  # noqa: ANN401
    """Return what a graph calls that is not torch's, or None; `graph`: a `torch.fx.Graph`, None for an empty one."""
    for node in _nodes(graph):
        if node.op == "call_module" or (node.op == "call_function" and not _is_of_torch(node.target)):
            return str(node.target)
    return None


def _nodes(graph: Any) -> Iterator[Any]:  # noqa: ANN401
    if graph is None:
        return
    yield from graph.nodes
    # The bodies of higher-order operators, such as a checkpoint.
    owner = graph.owning_module
    for module in owner.modules() if owner is not None else ():
        inner = getattr(module, "graph", None)
        if inner is not None and inner is not graph:
            yield from inner.nodes


def _is_of_torch(target: Any) -> bool:  # noqa: ANN401
    kind = type(target)
    if kind.__name__ in ("OpOverload", "OpOverloadPacket"):
        return str(target).partition(".")[0] in _OPERATORS
    if kind is types.FunctionType:
        inside = [_content(cell) for cell in target.__closure__ or ()]
        functions = [target, *(each for each in inside if isinstance(each, types.FunctionType))]
        return all(is_versioned(each.__globals__.get("__name__")) for each in functions)
    if kind is types.BuiltinFunctionType:
        owner = target.__self__
        home = target.__module__ or getattr(owner, "__module__", None) or type(owner).__module__
        return is_versioned(home)
    return kind is not functools.partial and is_versioned(kind.__module__)


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None
