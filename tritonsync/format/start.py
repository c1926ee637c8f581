"""Starts: what a workload lists, copied into one object that lies beside its manifest, so that one request fetches it.

A tar archive of objects as they are in the bucket, manifests and packs, under their own names; its first member,
`index.json`, says names and sizes. It promises nothing: a manifest in it counts as the one in the bucket would, by its
signature and its hashes, so a damaged or foreign start is at worst of no use. It is never needed: who finds none, or
lacks something in it, asks for the objects themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tritonsync.errors import PackError
from tritonsync.format.layout import parse_object_name
from tritonsync.format.pack import TAR_END, tar_header, tar_padding, tar_size

__all__ = ["MAX_INDEX_BYTES", "MAX_START_BYTES", "Room", "decode", "encode"]

#: What a start has at most; a writer leaves out what does not fit.
MAX_START_BYTES = 32 * 1024 * 1024
#: What of it may be the index: room for some thousands of objects, and little to parse where a stranger wrote it.
MAX_INDEX_BYTES = 1024 * 1024
#: Characters of one name, as many as S3 and GCS allow.
_MAX_NAME = 1024
_INDEX = "index.json"
#: Where a tar header says the size, in octal digits.
_SIZE = slice(124, 135)

_Index = list[tuple[str, int]]


def encode(objects: Mapping[str, bytes]) -> bytes:
    """Write objects, by name; sorted, so that the same ones make the same bytes."""
    index = msgspec.json.encode([(name, len(objects[name])) for name in sorted(objects)])
    members = {_INDEX: index, **{name: objects[name] for name in sorted(objects)}}
    parts = [
        part for name, data in members.items() for part in (tar_header(name, len(data)), data, tar_padding(len(data)))
    ]
    return b"".join([*parts, TAR_END])


class Room:
    """What is left of a start, while it is chosen what goes into it; to the byte."""

    def __init__(self) -> None:
        self._index, self._members = len("["), len(TAR_END)

    def take(self, sizes: Mapping[str, int]) -> bool:
        """Take the room for more objects, by name, of so many bytes; return whether there is enough for all of them."""
        index = self._index + sum(len(msgspec.json.encode(entry)) + len(",") for entry in sizes.items())
        members = self._members + sum(tar_size(name, count) for name, count in sizes.items())
        if index > MAX_INDEX_BYTES or tar_size(_INDEX, index) + members > MAX_START_BYTES:
            return False
        self._index, self._members = index, members
        return True


def decode(data: bytes) -> dict[str, memoryview]:
    """Read a start: objects by name, as views of `data`.

    Raises:
        PackError: it is none.
    """
    view = memoryview(data)
    try:
        length = int(data[_SIZE], 8)
        # Where it says that it is larger, it has not the header of one that is not.
        index = _member(view, 0, _INDEX, min(length, MAX_INDEX_BYTES))
        names: _Index = msgspec.json.decode(index, type=_Index)
    except (ValueError, msgspec.MsgspecError, RecursionError) as exc:
        raise PackError(f"a start that does not begin with an index of at most {MAX_INDEX_BYTES} bytes") from exc
    position = tar_size(_INDEX, length)
    objects: dict[str, memoryview] = {}
    for name, count in names:
        if len(name) > _MAX_NAME or parse_object_name(name) is None or not 0 <= count <= len(data):
            raise PackError(f"a start that holds {name[:80]!r}")
        objects[name] = _member(view, position, name, count)
        position += tar_size(name, count)
    if view[position:] != TAR_END:
        raise PackError("a start that does not end after what its index names")
    return objects


def _member(view: memoryview, position: int, name: str, count: int) -> memoryview:
    header = tar_header(name, count)
    begin = position + len(header)
    if view[position:begin] != header or begin + count > len(view):
        raise PackError(f"a start without {name[:80]!r} in its place")
    return view[begin : begin + count]
