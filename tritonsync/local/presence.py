"""Is it here already? Cheap questions that a download can be saved by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from tritonsync.errors import FormatError
from tritonsync.format.bundle import GRAPHS, Digest
from tritonsync.local.atomic import disk_errors, read_file
from tritonsync.local.group import LOOSE_SUFFIXES, children, is_group
from tritonsync.local.inductordir import value_path

__all__ = ["is_kernel_here", "is_key_here", "is_value_here"]


def is_key_here(inductor_dir: Path, kind: str, key: str) -> bool:
    """Return whether Inductor's folder has any value of this key."""
    try:
        path = value_path(inductor_dir, kind, key, "0" * 64)
    except FormatError:
        return False
    return path.parent.is_dir() if kind in GRAPHS else path.exists()


def is_value_here(inductor_dir: Path, kind: str, key: str, value: Digest) -> bool:
    """Return whether Inductor's folder has exactly this value.

    Raises:
        LocalCacheError: the file cannot be read.
    """
    try:
        path = value_path(inductor_dir, kind, key, value.sha256)
    except FormatError:
        return False
    with disk_errors("read the value", path):
        try:
            data = read_file(os.fspath(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
    return len(data) == value.size and hashlib.sha256(data).hexdigest() == value.sha256


def is_kernel_here(directory: Path) -> bool:
    """Return whether a kernel folder is finished, as Triton sees it: its group is there with every file it lists.

    The paths in a group have to lead into this folder; those of a cache that was moved do not. A folder without a group
    is finished where it holds helper modules or timings, and nothing else.

    Raises:
        LocalCacheError: the folder cannot be read.
    """
    with disk_errors("read the kernel folder", directory):
        try:
            names = set(os.listdir(directory))
            groups = [read_file(os.fspath(directory / name)) for name in names if is_group(name)]
        except (FileNotFoundError, NotADirectoryError):
            return False
    if not groups:
        return bool(names) and all(name.endswith(LOOSE_SUFFIXES) for name in names)
    return all(_is_whole(group, os.path.abspath(directory), names) for group in groups)


def _is_whole(group: bytes, directory: str, names: Collection[str]) -> bool:
    listed = children(group)
    return listed is not None and all(
        name in names and path == os.path.join(directory, name) for name, path in listed.items()
    )
