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

OBJECTS = {"bundles/fx_graph/k/v/1/pack.tar.zst": b"pack" * 300, "bundles/fx_graph/k/v/1/manifest.json": b"{}"}


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
    assert start.size({name: len(content) for name, content in OBJECTS.items()}) < len(data)


def test_other_tools_can_open_it() -> None:
    """It is a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(start.encode(OBJECTS))) as archive:
        assert archive.getnames() == ["index.json", *sorted(OBJECTS)]


NAME = "bundles/a/b"


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
