"""When an object was last written, as each filesystem of fsspec says it."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from tritonsync.remote.backend import modified

_WHEN = datetime.datetime(2026, 11, 27, 8, 50, 45, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    "info",
    [
        {"LastModified": _WHEN},  # s3fs
        {"updated": "2026-11-27T08:50:45Z"},  # gcsfs
        {"mtime": _WHEN.timestamp(), "created": 0.0},  # folders
        {"modify": "20261127085045"},  # FTP
        {"modify": "20261127085045.123"},
        {"modificationTime": int(_WHEN.timestamp() * 1000)},  # WebHDFS
    ],
)
def test_the_time_of_every_filesystem_is_read(info: dict[str, Any]) -> None:
    """In seconds since 1970."""
    assert modified(info) == _WHEN.timestamp()


@pytest.mark.parametrize("info", [{}, {"modify": "Nov 27 08:50"}, {"updated": "yesterday"}, {"modificationTime": None}])
def test_a_time_that_cannot_be_read_is_not_known(info: dict[str, Any]) -> None:
    """Rather than any other."""
    assert modified(info) is None
