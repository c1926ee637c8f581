"""`__grp__<name>.json`: Triton's list of the files that make up one compiled kernel.

FileCacheManager (triton/runtime/cache.py, 3.6 and 3.9) writes `{"child_paths": {"<file>": "<absolute path>"}}` last of
all, so a folder with such a file is finished. On reading, 3.6 leaves out children whose path does not exist, and 3.9
calls the whole group a miss; hence a group must list exactly the files that are there. RemoteCacheManager writes a
plain list of names instead, over which FileCacheManager stumbles; such a list is read here and never written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable

from tritonsync.errors import FormatError
from tritonsync.format.kernel import BINARY_SUFFIXES, GROUP_PREFIX, SENTINEL, Kernel, relocate_in

__all__ = [
    "MODULE_SUFFIXES",
    "UNGROUPED_SUFFIXES",
    "baked_directories",
    "children",
    "is_group",
    "launch_files",
    "relocate_group",
]

#: Helper modules, built for one Python.
MODULE_SUFFIXES = (".so", ".pyd")
#: Files that are finished without a group: Triton puts them into the cache one at a time.
UNGROUPED_SUFFIXES = (*MODULE_SUFFIXES, ".autotune.json")


def is_group(name: str) -> bool:
    """Return whether a file of this name is a group file."""
    return name.startswith(GROUP_PREFIX) and name.endswith(".json")


def children(payload: bytes) -> dict[str, str | None] | None:
    """Return the files of a group and their paths (None where the group lists names only).

    None stands for a group that cannot be read, or lists nothing.
    """
    try:
        listed = json.loads(payload)["child_paths"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if isinstance(listed, list):
        listed = dict.fromkeys(map(str, listed))
    if not isinstance(listed, dict) or not listed:
        return None
    return listed if all(path is None or isinstance(path, str) for path in listed.values()) else None


def baked_directories(groups: Iterable[bytes], kernel_hash: str) -> set[str]:
    """Return the folders that the groups say the kernel lies in, wherever it lies now.

    A cache that was copied or unpacked elsewhere still holds the path of its first place.
    """
    found = set()
    for payload in groups:
        for path in (children(payload) or {}).values():
            directory = os.path.dirname(path or "")
            if os.path.basename(directory) == kernel_hash:
                found.add(directory)
    return found


def launch_files(kernel: Kernel) -> set[str]:
    """Return the names of the files that a launch needs: the binaries, `<name>.json`, and the group files.

    All files, where the binary is of a backend that is not known here.
    """
    names = {file.name for file in kernel.files}
    binaries = {name for name in names if name.endswith(BINARY_SUFFIXES)}
    if not binaries:
        return names
    return binaries | {name for name in names if name.endswith(".json")}


def relocate_group(kernel: Kernel, name: str, payload: bytes, emitted: Collection[str], directory: str) -> bytes:
    """Return the group file as it has to stand in `directory` next to the files named in `emitted`.

    Where it lists exactly these files at the sentinel's place, it is what Triton wrote with the path put back.
    Otherwise it is written anew.

    Raises:
        FormatError: the group cannot be read, or the kernel lacks a binary or `.json` file that the group lists. Triton
            3.6 fails with a KeyError on such a folder.
    """
    listed = children(payload)
    if listed is None:
        raise FormatError(f"kernel {kernel.hash}: {name} does not list the kernel's files")
    here = {file.name for file in kernel.files}
    for child in listed:
        if child not in here and child.endswith((".json", *BINARY_SUFFIXES)):
            raise FormatError(f"kernel {kernel.hash} lacks {child}, which {name} lists: half a kernel is not written")
    kept = [child for child in listed if child in emitted]
    if len(kept) == len(listed) and all(path == f"{SENTINEL.decode()}/{child}" for child, path in listed.items()):
        return relocate_in(name, payload, directory)
    return json.dumps({"child_paths": {child: os.path.join(directory, child) for child in kept}}).encode()
