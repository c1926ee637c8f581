import contextlib
import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.conftest import Dynamic
from tritonsync.errors import ValueSplitError
from tritonsync.format.pickle_reader import MAX_OPCODES, Global, Instance, Reading, Span, read

MIB = 1024 * 1024


def _plain(value: object, pickled: bytes) -> object:
    """A plain value as the value it stands for."""
    if isinstance(value, Span):
        return pickled[value.start : value.stop]
    if isinstance(value, list):
        return [_plain(item, pickled) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item, pickled) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item, pickled) for key, item in value.items()}
    return value


simple = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=5).map(tuple) | st.dictionaries(st.text(), inner)
    ),
    max_leaves=20,
)


@given(simple, st.sampled_from([4, 5]))
def test_plain_values_are_read_as_pickle_reads_them(value: object, protocol: int) -> None:
    """Numbers, text, bytes and containers come out as they went in."""
    pickled = pickle.dumps(value, protocol)
    assert _plain(read(pickled).root, pickled) == value


@pytest.mark.parametrize("size", [0, 255, 256, 70_000])
def test_bytes_are_spans_of_every_length(size: int) -> None:
    """Bytes are found where they stand, in each of the opcodes for them."""
    value = os.urandom(size)
    for data in (value, bytearray(value)):
        pickled = pickle.dumps(data, 5)
        assert _plain(read(pickled).root, pickled) == value
    large = b"\x80\x04\x8e" + struct.pack("<Q", size) + value + b"."
    assert _plain(read(large).root, large) == value


class Thing:
    """Pickled as an instance with a dict."""

    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)


class Slotted:
    """Pickled as an instance with slots."""

    __slots__ = ("field",)

    def __init__(self, field: object) -> None:
        self.field = field


def test_instances_are_named_and_never_made() -> None:
    """Objects become their class's name, arguments and state, wherever they stand, also in cycles."""
    thing = Thing(a=1, b=Slotted("x"))
    thing.__dict__["me"] = thing
    reading = read(pickle.dumps([thing, OrderedDict(k="v"), {1, 2}, frozenset({3}), Path, thing], 4))
    assert isinstance(reading.root, list)
    made, ordered, items, frozen, cls, again = reading.root
    assert made is again
    assert made is made.get("me")
    assert (made.maker.module, made.maker.name) == (Thing.__module__, "Thing")
    assert made.get("a") == 1
    assert made.get("b").get("field") == "x"
    assert made.get("missing") is None
    assert isinstance(ordered, Instance)
    assert sorted(items) == [1, 2]
    assert frozen == [3]
    assert isinstance(cls, Global)
    assert cls.name == "Path"
    assert {"a", "b", "x", "v"} <= set(reading.texts)
    assert made.class_name == ""  # only classes of torch are told


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_nothing_is_called_or_imported(tmp_path: Path) -> None:
    """A pickle that would run a command, or import a module, is only read."""
    target = tmp_path / "ran"
    reading = read(pickle.dumps(Bomb(target)))
    assert isinstance(reading.root, Instance)
    assert isinstance(reading.root.maker, Global)
    assert reading.root.maker.name == "system"
    assert not target.exists()
    read(b"\x80\x04\x8c\x11tritonsync_absent\x8c\x01x\x93.")


def _refused(pickled: bytes, match: str = "not a pickle that can be read") -> None:
    with pytest.raises(ValueSplitError, match=match):
        read(pickled)


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b".",
        b"N",
        b"N.N",
        b"NN.",
        b"(N.",
        b"0.",
        b"t.",
        b"\x80\x02N.",
        b"\x80\x03N.",
        b"\x80\x06N.",
        b"h\x00.",
        b"j\xff\xff\xff\xff.",
        b"\x94.",
        b"NN\x93.",
        b"\x85.",
        b"R.",
        b"b.",
        b"I1\n.",
        b"cos\nsystem\n.",
        b"\x82\x01.",
        b"P1\n.",
        b"\x97.",
        b"Nr\xff\xff\xff\xff.",
        b"J\x00",
        b"X\xff\xff\xff\xffa.",
        b"B\xff\xff\xff\xffa.",
        b"\x8e" + b"\xff" * 8 + b"a.",
        b"\x8d" + b"\xff" * 8 + b"a.",
        b"\x95" + b"\xff" * 4,
        b"\x8c\x01\xff.",
        b"\x8a\x05a.",
    ],
)
def test_broken_and_foreign_pickles_are_refused(pickled: bytes) -> None:
    """Truncated pickles, empty stacks, unknown memos, other protocols and their opcodes: one kind of error."""
    _refused(pickled)


@given(st.binary(max_size=300))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    """Bytes of any kind give a reading or a ValueSplitError, nothing else."""
    with contextlib.suppress(ValueSplitError):
        assert isinstance(read(b"\x80\x04" + data), Reading)


@given(st.data())
def test_flipped_and_cut_values_are_read_or_refused(dynamic: dict[int, Dynamic], data: st.DataObject) -> None:
    """A real value with a flipped byte is read or refused; every cut is refused."""
    value = dynamic[50].aot
    position = data.draw(st.integers(0, len(value) - 1))
    flipped = bytearray(value)
    flipped[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ValueSplitError):
        read(bytes(flipped))
    _refused(value[:position])


def _peak_of_refusal(pickled: bytes) -> int:
    tracemalloc.start()
    try:
        _refused(pickled)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_stated_length_allocates_nothing() -> None:
    """Lengths and memo places of terabytes cost no memory."""
    for pickled in (b"B\xff\xff\xff\x7fa.", b"\x8e" + struct.pack("<Q", 2**45) + b"a.", b"N\x94j\xff\xff\xff\x7f."):
        assert _peak_of_refusal(pickled) < MIB


def test_opcodes_are_counted() -> None:
    """A pickle of nothing but one-byte opcodes is refused before it fills the memory."""
    _refused(b"N0" * (MAX_OPCODES // 2 + 1), "opcodes")


def test_deep_nesting_and_sharing_are_harmless() -> None:
    """A dict key nested 300,000 levels deep, and one that doubles forty times, are neither hashed nor walked."""
    read(b"\x80\x04})" + b"\x85" * 300_000 + b"Ns.")
    # Each step memoizes a pair of the one before: (BINGET i, BINGET i, TUPLE2, MEMOIZE, POP).
    doubling = b"".join(b"h%ch%c\x86\x940" % (i, i) for i in range(40))
    read(b"\x80\x04})\x940" + doubling + b"h\x28Ns.")
