"""The marker object that says which format a bucket has."""

from __future__ import annotations

import json

from tritonsync.errors import FormatError, NewerFormatError
from tritonsync.format.objects import MARKER_CONTENT

__all__ = ["check_marker"]

_KNOWN: int = json.loads(MARKER_CONTENT)["format"]


def check_marker(content: bytes | None, shown: str) -> None:
    """Check that the bucket's format is known; no marker is a new bucket.

    Args:
        content: of the marker object, None if there is none.
        shown: its URL, for messages.

    Raises:
        NewerFormatError: a newer tritonsync wrote it.
        FormatError: it is none.
    """
    if content is None:
        return
    try:
        number = json.loads(content)["format"]
    except (ValueError, TypeError, LookupError, RecursionError):
        number = None
    if type(number) is not int or number < 1:
        raise FormatError(f"{shown} is not the marker of a tritonsync bucket; choose another prefix, or remove it")
    if number > _KNOWN:
        raise NewerFormatError(f"{shown} says format {number}: a newer tritonsync wrote it; upgrade this one")
