"""Source files that a graph was traced from: how they are called on every machine, and digests of them."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable

from tritonsync.local.files import read_file

__all__ = ["MAX_SOURCES", "digests_of_sources"]

#: Files read for one graph.
MAX_SOURCES = 64
#: No source is larger; what is was not written by hand.
_MAX_BYTES = 16 * 1024 * 1024


def digests_of_sources(paths: Iterable[str]) -> dict[str, str]:
    """Return names and the first 16 hex digits of the sha256 of these files, as they are now.

    A file is called as it is imported, below the longest entry of `sys.path` that holds it: `train.py`,
    `models/vit.py`. So it has one name on every machine, and that names no folder of a user. torch's own files are left
    out: its version is a part of every key. So is what is no file, such as a cell of a notebook.
    """
    roots = sorted({os.path.abspath(entry) for entry in sys.path}, key=len, reverse=True)
    found: dict[str, str] = {}
    for path in sorted(paths):
        full = os.path.abspath(path)
        root = next((root for root in roots if full.startswith(root + os.sep)), os.path.dirname(full))
        name = os.path.relpath(full, root)
        if name.split(os.sep)[0] == "torch" or len(found) == MAX_SOURCES:
            continue
        try:
            if os.path.getsize(full) <= _MAX_BYTES:
                found[name] = hashlib.sha256(read_file(full)).hexdigest()[:16]
        except OSError:
            continue
    return found
