"""What a kernel folder that lies in Triton's cache already is, next to the kernel that is to be written there.

Only looks, changes nothing. Two folders hold the same kernel if their launch facts (`<name>.json`: shared memory,
number of warps, ...) are equal: two compiles of one hash can differ in the binary's line information and still be the
same kernel, but facts of one must never meet the binary of the other.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Literal

from tritonsync.format.kernel import BINARY_SUFFIXES, Kernel, place
from tritonsync.local.atomic import read_file
from tritonsync.local.binary import is_elf, is_whole_elf
from tritonsync.local.group import children, is_group

__all__ = ["Verdict", "is_damaged", "judge", "launch_facts", "rest_is_equal", "youngest"]

Verdict = Literal["present", "conflict", "unfinished"]


def judge(placed: dict[str, bytes], target: str, existing: set[str]) -> Verdict:
    """Say what a folder that is not empty is to a kernel.

    Args:
        placed: the files that are to be written, as they would stand in the folder.
        target: the folder.
        existing: the names in it.
    """
    groups = [name for name in existing if is_group(name)]
    if not groups or not all(_is_finished(target, name, existing) for name in groups):
        return "unfinished"
    facts = [name for name in placed if name.endswith(".json") and not is_group(name)]
    binaries = [name for name in placed if name.endswith(BINARY_SUFFIXES)]
    if not facts or not binaries:
        # Not a backend whose launch facts are known here: only equal bytes are the same kernel.
        same = all(name in existing and read_file(os.path.join(target, name)) == placed[name] for name in placed)
        return "present" if same else "conflict"
    local = {name: read_file(os.path.join(target, name)) for name in facts if name in existing}
    if any(launch_facts(payload) is None for payload in local.values()):
        return "unfinished"
    if not all(name in local and _same_facts(local[name], placed[name]) for name in facts):
        return "conflict"
    return "present" if all(_is_good(target, name, placed[name], existing) for name in binaries) else "unfinished"


def _is_finished(target: str, group: str, existing: set[str]) -> bool:
    """Whether Triton can use the kernel that a group file of the folder lists."""
    for child, path in (children(read_file(os.path.join(target, group))) or {"": None}).items():
        if path is None or child not in existing:
            return False
        if path != os.path.join(target, child) and not os.path.exists(path):
            return False  # the folder was moved here: Triton looks for the file in its first place
    return True


def _is_good(target: str, name: str, payload: bytes, existing: set[str]) -> bool:
    if name not in existing:
        return False
    local = read_file(os.path.join(target, name))
    return local == payload or is_whole_elf(local)


def _same_facts(local: bytes, ours: bytes) -> bool:
    return local == ours or ((facts := launch_facts(local)) is not None and facts == launch_facts(ours))


def launch_facts(payload: bytes) -> dict[str, Any] | None:
    """Parse `<name>.json`; None where it is damaged.

    Of `extern_libs` (name and path of each) the names are kept only, as the paths differ by machine.
    """
    try:
        facts = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(facts, dict):
        return None
    libraries = facts.get("extern_libs")
    if isinstance(libraries, list):
        facts["extern_libs"] = [item[0] if isinstance(item, list) and item else item for item in libraries]
    return facts


def youngest(target: str) -> float:
    """Return when anything in the folder, or the folder itself, changed last (seconds since the epoch)."""
    try:
        return max(
            os.stat(target).st_mtime,
            *(
                os.lstat(os.path.join(directory, name)).st_mtime
                for directory, folders, files in os.walk(target)
                for name in (*folders, *files)
            ),
        )
    except FileNotFoundError:
        return time.time()  # something in it went away just now


def rest_is_equal(kernel: Kernel, target: str, existing: set[str]) -> bool:
    """Whether the files that are there are the kernel's; its own group files do not count, they are written anew."""
    stored = {file.name: file.payload for file in kernel.files}
    if any(is_group(name) and name not in stored for name in existing):
        return False
    for name in existing & stored.keys():
        path, ours = os.path.join(target, name), place(name, stored[name], target)
        if is_group(name):
            continue
        if not os.path.isfile(path):
            return False
        local = read_file(path)
        if local != ours and not (name.endswith(".json") and _same_facts(local, ours)):
            return False
    return True


def is_damaged(path: str) -> bool:
    """Whether a single file is empty, cut short, or a `.json` that cannot be read."""
    local = read_file(path)
    if path.endswith(".json"):
        return launch_facts(local) is None
    return not local or (is_elf(local) and not is_whole_elf(local))
