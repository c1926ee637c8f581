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
from tritonsync.format.layout import is_name
from tritonsync.format.pack import TAR_END, tar_header, tar_padding, tar_size

__all__ = ["MAX_START_BYTES", "decode", "encode", "size"]

#: What a start has at most; a writer leaves out what does not fit.
MAX_START_BYTES = 32 * 1024 * 1024
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


def size(sizes: Mapping[str, int]) -> int:
    """Return the bytes of a start of these objects, but for its index."""
    return sum(tar_size(name, count) for name, count in sizes.items())


def decode(data: bytes) -> dict[str, memoryview]:
    """Read a start: objects by name, as views of `data`.

    Raises:
        PackError: it is none.
    """
    view = memoryview(data)
    try:
        length = int(data[_SIZE], 8)
        names: _Index = msgspec.json.decode(_member(view, 0, _INDEX, length), type=_Index)
    except (ValueError, msgspec.MsgspecError, RecursionError) as exc:
        raise PackError("a start that does not begin with its index") from exc
    position = tar_size(_INDEX, length)
    objects: dict[str, memoryview] = {}
    for name, count in names:
        if not (name.startswith("bundles/") and all(map(is_name, name.split("/"))) and 0 <= count <= len(data)):
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
