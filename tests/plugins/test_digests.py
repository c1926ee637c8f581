"""A digest stands for what an object does: equal ones in another process, and no others, have the same."""

from __future__ import annotations

import enum
import functools
import importlib.util
import math
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tritonsync.plugins.digests import UnknownObjectError, digest_of, digest_of_code, is_versioned


def made(source: str, name: str = "f", **scope: Any) -> Any:
    """Return what a source text defines, in a scope of its own."""
    scope["__name__"] = "somewhere"
    exec(source, scope)
    return scope[name]


BASE = "def f(x, n=2):\n    return x * n\n"


@pytest.mark.parametrize(
    "other",
    [
        "def f(x, n=2):\n    return x + n\n",
        "def f(x, n=3):\n    return x * n\n",
        "def f(x, m=2):\n    return x * m\n",
        "def f(x, *, n=2):\n    return x * n\n",
        "def f(x, n=2):\n    return y * n\n",
        "def f(x, n=2.0):\n    return x * n\n",
        "def f(x, n=(1, 2)):\n    return x * n\n",
        "class f:\n    pass\n",
    ],
)
def test_functions_that_do_something_else_differ(other: str) -> None:
    """Bytecode, names, defaults and their types count."""
    assert digest_of(made(BASE)) == digest_of(made(BASE))
    assert digest_of(made(BASE)) != digest_of(made(other))


def test_builtins_of_torch_are_told_by_their_names() -> None:
    """What pybind11 makes is bound to a record of its own, which is no instance of the program."""
    import torch

    one, other = torch._C._get_tracing_state, torch._C._len_torch_function_stack
    assert digest_of(one) == digest_of(one) != digest_of(other)
    with pytest.raises(UnknownObjectError):
        digest_of([].append)


def test_where_a_function_stands_does_not_count() -> None:
    """Other lines and another file make no other code."""
    assert digest_of_code(made(BASE).__code__) == digest_of_code(made("\n\n\n" + BASE).__code__)
    moved = made(BASE).__code__.replace(co_filename="elsewhere.py", co_firstlineno=7)
    assert digest_of_code(made(BASE).__code__) == digest_of_code(moved)


def closing(over: object) -> Callable[[], object]:
    def inner() -> object:
        return over

    return inner


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, 1.0),
        (1, True),
        ("a", "b"),
        (math.sin, math.cos),
        (made(BASE), made(BASE.replace("*", "+"))),
        ([1], [2]),
    ],
)
def test_what_a_function_closes_over_counts(one: object, other: object) -> None:
    """Constants, functions and lists of them; a function deep inside as well."""
    assert digest_of(closing(one)) == digest_of(closing(one))
    assert digest_of(closing(one)) != digest_of(closing(other))
    assert digest_of(closing(closing(one))) != digest_of(closing(closing(other)))


def test_a_decorator_does_not_hide_what_is_inside() -> None:
    """A wrapper has the name and the module of what it wraps; its own code, and what it closes over, tell it."""

    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*given: Any) -> Any:
            return function(*given)

        return wrapper

    assert digest_of(decorated(made(BASE))) == digest_of(decorated(made(BASE)))
    assert digest_of(decorated(made(BASE))) != digest_of(decorated(made(BASE.replace("*", "+"))))
    assert digest_of(decorated(operator.itemgetter)) != digest_of(operator.itemgetter)


CLASS = "class Base:\n    def g(self): return 1\nclass f(Base):\n    size = 2\n    def h(self): return self.g()\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return 1", "return 2"),
        ("size = 2", "size = 3"),
        ("def h(self)", "@property\n    def h(self)"),
        ("class f(Base)", "class f"),
        ("    size = 2\n", "    size = 2\n    def g(self): return 3\n"),
    ],
)
def test_classes_are_told_by_all_that_they_inherit(before: str, after: str) -> None:
    """A change anywhere in the hierarchy, an override among them, makes another class."""
    assert digest_of(made(CLASS)) == digest_of(made(CLASS))
    assert digest_of(made(CLASS)) != digest_of(made(CLASS.replace(before, after)))


def test_functions_that_hold_each_other() -> None:
    """A circle ends."""

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert digest_of(even) == digest_of(even)
    assert digest_of(even) != digest_of(odd)


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize("value", [None, True, 1, "a", (1, "a"), Color.RED, len, math.sin, str.upper, math, dict])
def test_other_things_that_have_one(value: object) -> None:
    """Constants, builtins, modules and classes of the standard library."""
    assert len(digest_of(value)) == 64


@pytest.mark.parametrize("value", [object(), [], {}, set(), functools.partial(len), iter(()), "".join])
def test_what_may_change_or_cannot_be_told_has_none(value: object) -> None:
    """An instance says nothing that another process could compare."""
    with pytest.raises(UnknownObjectError):
        digest_of(value)


def test_versions_stand_for_what_comes_with_them() -> None:
    """Of the program itself, and of packages whose version nobody compares, the content counts."""
    assert is_versioned("torch.nn.functional")
    assert is_versioned("json")
    assert not is_versioned("__main__")
    assert not is_versioned("torchvision.models")
    assert not is_versioned("transformers")
    assert not is_versioned(None)


def test_a_module_of_the_program_with_a_standard_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sched.py` beside `train.py` is what a program imports, and Python's version says nothing of it."""
    digests = []
    for method in ("x * 2", "x * 3 + 1"):
        path = tmp_path / "sched.py"
        path.write_text(f"class Scheduler:\n    def step(self, x):\n        return {method}\n")
        spec = importlib.util.spec_from_file_location("sched", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "sched", module)
        spec.loader.exec_module(module)
        digests.append(digest_of(module.Scheduler))
    assert not is_versioned("sched")
    assert len(set(digests)) == 2


def test_kernels_written_in_triton_are_told_by_their_source_and_choices() -> None:
    """Triton's own key of a kernel counts, and the configurations and functions that choose its parameters."""
    triton = pytest.importorskip("triton")
    from tests.gpu.handwritten import scale

    def tuned(block: int) -> Any:
        return triton.autotune(configs=[triton.Config({"BLOCK": block})], key=["count"])(scale)

    def chosen(block: int) -> Any:
        return triton.heuristics({"BLOCK": lambda _: block})(scale)

    assert len({digest_of(each) for each in (scale, tuned(64), tuned(128), chosen(64), chosen(128))}) == 5
    assert digest_of(tuned(64)) == digest_of(tuned(64))
    assert digest_of(chosen(64)) == digest_of(chosen(64))
