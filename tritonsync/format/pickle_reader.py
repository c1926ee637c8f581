"""Read a pickle without running it: what the opcodes would build, as plain values.

Nothing is imported or called, and nothing but text is hashed. A class or function is a `Global`, whatever would be made
by calling one is an `Instance`, bytes are a `Span` of the pickle, so that they can be cut out of it. That makes it safe
on bytes from anywhere, where `pickle.Unpickler` with a harmless `find_class` is not: a 16 MB pickle can make that one
hash a tuple nested a million levels deep (a crash), or grow its memo by gigabytes with one opcode.

It reads protocols 4 and 5, the ones that torch writes, in one pass. Memory is bounded by `MAX_OPCODES` small objects
and the text of the pickle. Containers forget what nobody asks for: sets are lists, dict entries whose key is no string
and items of list or dict subclasses are dropped (what they are made of is still among `instances` and `texts`).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import NoReturn

from tritonsync.errors import ValueSplitError

__all__ = ["MAX_OPCODES", "Global", "Instance", "Reading", "Span", "read"]

#: The largest value seen, 16 MB of a ResNet-50 backward graph, has 170,000.
MAX_OPCODES = 4_000_000

_UINT16 = struct.Struct("<H")
_INT32 = struct.Struct("<i")
_UINT32 = struct.Struct("<I")
_UINT64 = struct.Struct("<Q")
_FLOAT = struct.Struct(">d")


class Global:
    """A class or function by its name; never looked up."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


class Instance:
    """What calling `maker` with `args` would have made; `state` is what would have been put into it."""

    __slots__ = ("args", "maker", "state")

    def __init__(self, maker: object, args: object) -> None:
        self.maker = maker
        self.args = args
        self.state: object = None

    @property
    def class_name(self) -> str:
        """The class's name, if it is one of torch; empty for all others."""
        if isinstance(self.maker, Global) and self.maker.module.partition(".")[0] == "torch":
            return self.maker.name
        return ""

    def get(self, attribute: str) -> object:
        """Return an attribute, or None if it is not known."""
        return self.state.get(attribute) if isinstance(self.state, dict) else None


class Span:
    """Bytes of the pickle, from `start` up to `stop`."""

    __slots__ = ("start", "stop")

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop


@dataclasses.dataclass(frozen=True)
class Reading:
    """A pickle that was read.

    Attributes:
        root: the value that unpickling would return.
        instances: everything that calls would have made, in the order of the pickle.
        texts: every string, in the order of the pickle.
    """

    root: object
    instances: list[Instance]
    texts: list[str]


def read(pickle: bytes) -> Reading:
    """Read a whole pickle.

    Raises:
        ValueSplitError: it is truncated or padded, has an opcode that protocols 4 and 5 do not need, or too many.
    """
    reader = _Reader(pickle)
    # The four ways in which a read past the end, a pop of nothing, an unknown opcode or bad text shows.
    try:
        return reader.run()
    except UnicodeDecodeError as exc:
        why = exc.reason  # only that: the error holds the whole text, and its repr is four times as long
    except (IndexError, KeyError, struct.error) as exc:
        why = repr(exc)[:100]
    # Not inside `except`: this error would keep that one, and so the text, alive.
    raise ValueSplitError(f"not a pickle that can be read, at byte {reader.position}: {why}")


class _Reader:
    """The machine: a stack, a list of stacks below marks, and the memo."""

    def __init__(self, pickle: bytes) -> None:
        self.pickle = pickle
        self.position = 0
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: list[object] = []
        self.instances: list[Instance] = []
        self.texts: list[str] = []

    def run(self) -> Reading:
        pickle, opcodes, stop = self.pickle, _OPCODES, _STOP
        for _ in range(MAX_OPCODES):
            opcode = pickle[self.position]
            self.position += 1
            if opcode == stop:
                break
            opcodes[opcode](self)
        else:
            self.fail(f"it has more than {MAX_OPCODES} opcodes")
        if self.position != len(pickle) or len(self.stack) != 1 or self.marks:
            self.fail("it does not end where it says")
        return Reading(self.stack[0], self.instances, self.texts)

    def fail(self, why: str) -> NoReturn:
        raise ValueSplitError(f"not a pickle that can be read, at byte {self.position}: {why}")

    # ---- the parts of opcodes ---------------------------------------------------------------------------------------

    def number(self, layout: struct.Struct) -> int:
        value: int = layout.unpack_from(self.pickle, self.position)[0]
        self.position += layout.size
        return value

    def byte(self) -> int:
        value = self.pickle[self.position]
        self.position += 1
        return value

    def skip(self, length: int) -> int:
        start = self.position
        self.position = start + length
        if self.position > len(self.pickle):
            self.fail(f"it ends inside an item of {length} bytes")
        return start

    def text(self, length: int) -> None:
        start = self.skip(length)
        text = str(self.pickle[start : self.position], "utf-8", "surrogatepass")
        self.texts.append(text)
        self.stack.append(text)

    def span(self, length: int) -> None:
        start = self.skip(length)
        self.stack.append(Span(start, self.position))

    def items(self) -> list[object]:
        """Take what stands above the mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def instance(self, maker: object, args: object) -> None:
        made = Instance(maker, args)
        self.instances.append(made)
        self.stack.append(made)

    def push(self, value: object) -> None:
        self.stack.append(value)

    # ---- opcodes that need more than a line -------------------------------------------------------------------------

    def proto(self) -> None:
        if self.byte() not in (4, 5):
            self.fail("its protocol is neither 4 nor 5")

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def tuple_of(self, length: int) -> None:
        items = tuple(self.stack.pop() for _ in range(length))
        self.stack.append(items[::-1])

    def long(self) -> None:
        start = self.skip(self.byte())
        self.stack.append(int.from_bytes(self.pickle[start : self.position], "little", signed=True))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            self.fail("a class whose name is no text")
        self.stack.append(Global(module, name))

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            # `strict` would refuse an odd number of items; torch's own unpickler will do that.
            target.update(
                (key, item) for key, item in zip(items[::2], items[1::2], strict=False) if isinstance(key, str)
            )

    def set_item(self) -> None:
        item, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, item])

    def call(self) -> None:
        args, maker = self.stack.pop(), self.stack.pop()
        self.instance(maker, args)

    def call_with_keywords(self) -> None:
        keywords, args, maker = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.instance(maker, (args, keywords))

    def build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = state[1]  # an object with slots: (its dict or None, its slots)
        if isinstance(made, Instance):
            made.state = state


_STOP = ord(".")
_OPCODES: dict[int, Callable[[_Reader], None]] = {
    ord(code): action
    for code, action in {
        "\x80": _Reader.proto,
        "\x95": lambda r: r.number(_UINT64) and None,  # FRAME
        "0": lambda r: r.stack.pop() and None,
        "1": lambda r: r.items() and None,  # POP_MARK
        "(": _Reader.mark,
        "N": lambda r: r.push(None),
        "\x88": lambda r: r.push(True),
        "\x89": lambda r: r.push(False),
        "J": lambda r: r.push(r.number(_INT32)),
        "K": lambda r: r.push(r.byte()),
        "M": lambda r: r.push(r.number(_UINT16)),
        "\x8a": _Reader.long,
        "G": lambda r: r.push(r.number(_FLOAT)),
        "\x8c": lambda r: r.text(r.byte()),
        "X": lambda r: r.text(r.number(_UINT32)),
        "\x8d": lambda r: r.text(r.number(_UINT64)),
        "C": lambda r: r.span(r.byte()),
        "B": lambda r: r.span(r.number(_UINT32)),
        "\x8e": lambda r: r.span(r.number(_UINT64)),
        "\x96": lambda r: r.span(r.number(_UINT64)),  # BYTEARRAY8
        "]": lambda r: r.push([]),
        "a": lambda r: r.extend([r.stack.pop()]),
        "e": lambda r: r.extend(r.items()),
        ")": lambda r: r.push(()),
        "t": lambda r: r.push(tuple(r.items())),
        "\x85": lambda r: r.tuple_of(1),
        "\x86": lambda r: r.tuple_of(2),
        "\x87": lambda r: r.tuple_of(3),
        "}": lambda r: r.push({}),
        "s": _Reader.set_item,
        "u": lambda r: r.set_items(r.items()),
        "\x8f": lambda r: r.push([]),  # EMPTY_SET
        "\x90": lambda r: r.extend(r.items()),  # ADDITEMS
        "\x91": lambda r: r.push(r.items()),  # FROZENSET
        "\x94": lambda r: r.memo.append(r.stack[-1]),
        "h": lambda r: r.push(r.memo[r.byte()]),
        "j": lambda r: r.push(r.memo[r.number(_UINT32)]),
        "\x93": _Reader.stack_global,
        "\x81": _Reader.call,  # NEWOBJ
        "R": _Reader.call,
        "\x92": _Reader.call_with_keywords,
        "b": _Reader.build,
    }.items()
}
