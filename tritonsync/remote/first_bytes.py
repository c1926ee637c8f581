"""The first bytes of an object, from a store that may send all of it: which were asked for is its to heed or not.

No more of the answer is read than was asked for; what is left goes with the connection. s3fs and gcsfs read whole
bodies (`_cat_file` and `_request`, 2026.9 and 2026.10), so the store would decide what a read costs in memory.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["bounded_response", "first_bytes_of_s3"]

#: Read at a time.
_PART = 1024 * 1024
#: Read of what a server says about an error.
_MOST_SAID = 64 * 1024
#: How fsspec asks for first bytes.
_ASKED = re.compile(r"bytes=0-(\d+)")


async def first_bytes_of_s3(filesystem: Any, path: str, count: int) -> bytes:  # noqa: ANN401 - s3fs has no types
    """Return an object's first `count` bytes, at least one; raises what s3fs raises."""
    bucket, key, version = filesystem.split_path(path)
    which = {"VersionId": version} if version else {}
    answer = await filesystem._call_s3(  # noqa: SLF001 - `get_object`, with s3fs's credentials and errors
        "get_object", Bucket=bucket, Key=key, Range=f"bytes=0-{count - 1}", **which
    )
    try:
        return await _at_most(count, answer["Body"].read)
    finally:
        answer["Body"].close()


def bounded_response() -> type:
    """Return the class of answers with which gcsfs reads no more than it has asked for."""
    import aiohttp  # comes with gcsfs

    class Bounded(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            asked = _ASKED.fullmatch(self.request_info.headers.get("Range", ""))
            if asked is None:
                return await super().read()
            return await _at_most(int(asked[1]) + 1 if self.ok else _MOST_SAID, self.content.read)

    return Bounded


async def _at_most(count: int, read: Callable[[int], Awaitable[bytes]]) -> bytes:
    parts = []
    while count > 0 and (part := await read(min(count, _PART))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
