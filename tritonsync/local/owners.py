"""Which ranks of a job the values in Inductor's folder belong to, where they belong to one.

::

    <cache>/.tritonsync/ranks/<value's file name>/<rank>of<world>     an empty file: that rank may use it

torch takes the first value under a key whose guards hold, whichever rank wrote it into a folder that several share.
Ranks that make or fetch the same bytes have a note each.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tritonsync.format.ranks import Rank
from tritonsync.local.files import LOCKS, disk_errors, write_new

__all__ = ["has_owners", "is_owner", "note_owner"]


def note_owner(inductor_dir: Path, name: str, owner: Rank) -> None:
    """Note that a rank may use the value in the file of this name.

    Raises:
        LocalCacheError: the note cannot be written.
    """
    path = _notes(inductor_dir) / name / _text(owner)
    with disk_errors("write", path), contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_new(os.fspath(path), b"")


def has_owners(inductor_dir: Path) -> bool:
    """Whether any value in the folder may belong to a rank.

    In a folder that another user prepared, such as the root of an init container or of an image, nobody else can tell.
    """
    try:
        _notes(inductor_dir).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def is_owner(inductor_dir: Path, name: str, reader: Rank) -> bool:
    """Whether a rank may use the value in the file of this name.

    What nobody has noted is left to a program of one process: without ranks there is nothing to confuse.

    Raises:
        LocalCacheError: the notes cannot be read.
    """
    path = _notes(inductor_dir) / name
    with disk_errors("list", path):
        try:
            owners = os.listdir(path)
        except FileNotFoundError:
            owners = []
    return _text(reader) in owners if owners else reader.world == 1


def _notes(inductor_dir: Path) -> Path:
    return inductor_dir / LOCKS / "ranks"


def _text(rank: Rank) -> str:
    return f"{rank.rank}of{rank.world}"
