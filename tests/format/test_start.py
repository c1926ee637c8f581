"""Starts: objects in one object, and nothing else."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonsync.errors import PackError
from tritonsync.format import start
from tritonsync.format.pack import TAR_END, tar_header, tar_padding

PLACE = f"bundles/fx_graph/k/v/{1:032x}/"
OBJECTS = {PLACE + "pack.tar.zst": b"pack" * 300, PLACE + "manifest.json": b"{}"}


def handmade(index: object, *members: tuple[str, bytes]) -> bytes:
    """Write a start as a stranger might."""
    parts = [("index.json", json.dumps(index).encode()), *members]
    blocks = [tar_header(name, len(data)) + data + tar_padding(len(data)) for name, data in parts]
    return b"".join(blocks) + TAR_END


def test_what_is_written_is_read() -> None:
    """Whatever the order, and equal objects make equal bytes."""
    data = start.encode(OBJECTS)
    assert {name: bytes(view) for name, view in start.decode(data).items()} == OBJECTS
    assert start.encode(dict(reversed(OBJECTS.items()))) == data


def test_a_writer_knows_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte: the whole of it has a limit, and the index has one of its own."""
    sizes = {name: len(content) for name, content in OBJECTS.items()}
    whole, index = len(start.encode(OBJECTS)), len(json.dumps(sorted(sizes.items()), separators=(",", ":")))
    for limit, exact in (("MAX_START_BYTES", whole), ("MAX_INDEX_BYTES", index)):
        with monkeypatch.context() as patched:
            patched.setattr(start, limit, exact)
            assert start.Room().take(sizes)
            one_by_one = start.Room()
            assert all(one_by_one.take({name: size}) for name, size in sizes.items())
            assert start.decode(start.encode(OBJECTS)).keys() == OBJECTS.keys()
            patched.setattr(start, limit, exact - 1)
            assert not start.Room().take(sizes)


def test_other_tools_can_open_it() -> None:
    """It is a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(start.encode(OBJECTS))) as archive:
        assert archive.getnames() == ["index.json", *sorted(OBJECTS)]


NAME = PLACE + "manifest.json"


def test_one_good_name_is_read() -> None:
    """What is refused below is refused for its own reason."""
    assert start.decode(handmade([[NAME, 1]], (NAME, b"1"))) == {NAME: b"1"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 2000,
        start.encode(OBJECTS)[:-1],
        start.encode(OBJECTS) + b"\0",
        handmade([[NAME, 1]]),
        handmade([[NAME, 2]], (NAME, b"1")),
        handmade([], (NAME, b"1")),
        handmade([["kernels/a/b", 1]], ("kernels/a/b", b"1")),
        handmade([["bundles/../b", 1]], ("bundles/../b", b"1")),
        handmade([["bundles/a/b", 1]], ("bundles/a/b", b"1")),
        handmade([[NAME, -512]], (NAME, b"")),
        handmade([[NAME, 10**30]], (NAME, b"")),
        handmade({"a": 1}),
        tar_header("index.json", 10**9) + b"[]",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    """With the one error that a reader expects."""
    with pytest.raises(PackError):
        start.decode(data)


def test_an_index_that_no_writer_makes_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start of nothing but an index would cost twelve times its size in memory."""

    def parsed(*_: object, **__: object) -> None:
        pytest.fail("the index was parsed")

    index = b"[" + b",".join([b'["",0]'] * (start.MAX_INDEX_BYTES // 7 + 1)) + b"]"
    monkeypatch.setattr("msgspec.json.decode", parsed)
    with pytest.raises(PackError, match="an index of at most"):
        start.decode(tar_header("index.json", len(index)) + index)


def test_a_name_has_no_more_characters_than_an_object_may_have() -> None:
    """Also where its parts are names."""
    long = f"bundles/{'k' * 255}/{'k' * 255}/{'v' * 255}/{1:032x}/payloads/{'p' * 255}"
    with pytest.raises(PackError, match="a start that holds"):
        start.decode(handmade([[long, 1]], (long, b"1")))


@given(st.binary(max_size=64), st.integers(0, 2000))
def test_damage_is_a_refusal_or_other_content(noise: bytes, position: int) -> None:
    """Names never change; what an object holds is for its manifest to say."""
    data = bytearray(start.encode(OBJECTS))
    data[position : position + len(noise)] = noise
    try:
        found = start.decode(bytes(data))
    except PackError:
        return
    assert found.keys() == OBJECTS.keys()
