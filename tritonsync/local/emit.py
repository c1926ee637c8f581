"""Renames a kernel folder into place in Triton's cache: it appears whole or not at all.

A new folder is written under a random name beside its place and renamed over it. What to do with a folder that is there
already follows from what it is:

=============  =========================================================================================================
present        finished, and either the same launch facts (`<name>.json`, without the paths in `extern_libs`) with a
               whole binary, or the same bytes: left alone
conflict       finished, with other launch facts: left alone, and reported. A graph value whose static autotuners were
               made for the other binary must not be used on this host. Links, whether the folder is one or a file in
               it, are a conflict too: they are not followed.
busy           not finished, and something in it is younger than ten minutes: left alone, even if equal so far. Triton
               writes a compile stage by stage; finishing it from outside would build a mixture.
repaired       not finished and older: its missing files are added, the group last, where the rest is equal; else it is
               moved aside and replaced
=============  =========================================================================================================

Folders without a group (`cuda_utils*.so`, launcher stubs, `*.autotune.json`) are written file by file and never moved
aside: two versions of Python share such a folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import time
from pathlib import Path
from typing import Literal

from tritonsync import times
from tritonsync.errors import FormatError
from tritonsync.format.kernel import BINARY_SUFFIXES, Kernel, relocate_in
from tritonsync.local.files import (
    check_owner,
    disk_errors,
    is_link,
    read_file,
    replace_file,
    temporary_path,
    write_new,
)
from tritonsync.local.group import UNGROUPED_SUFFIXES, children, is_group, launch_files, relocate_group
from tritonsync.local.presence import is_damaged, is_whole_elf, launch_facts
from tritonsync.settings import Files

__all__ = ["Emitted", "Outcome", "emit"]

Outcome = Literal["emitted", "repaired", "present", "lost_race", "busy", "conflict"]


_WINDOWS = os.name == "nt"


@dataclasses.dataclass(frozen=True)
class Emitted:
    """What became of one kernel.

    Attributes:
        outcome: `emitted`: the folder is new. `repaired`: it was broken and old, and is whole now. `present`: it was
            there. `lost_race`: another process wrote it at the same time. `busy`: it is being compiled. `conflict`: it
            holds another binary.
        path: the kernel's folder.
    """

    outcome: Outcome
    path: Path


def emit(kernel: Kernel, base: Path, *, files: Files = "all") -> Emitted:
    """Write a kernel into `<base>/<kernel hash>`.

    The kernel's bytes are taken as they are: whoever made the `Kernel` has checked them against the manifest.

    Args:
        kernel: in stored form.
        base: Triton's cache folder for the kernel's device; created if it is missing.
        files: `all`, or only those that a `launch` needs.

    Raises:
        FormatError: the kernel is only half a kernel.
        UnsafeFolderError: others may write into `base`.
        LocalCacheError: the folder cannot be read or written.
    """
    parent = os.path.abspath(base)
    target = os.path.join(parent, kernel.hash)
    check_owner(parent)
    with disk_errors("write the kernel folder", target):
        return Emitted(_emit(kernel, parent, target, files), Path(target))


def _emit(kernel: Kernel, parent: str, target: str, files: Files) -> Outcome:
    existing = _listing(target)
    if existing is None:
        return "conflict"
    if not any(is_group(file.name) for file in kernel.files):
        return _emit_ungrouped(kernel, parent, target, existing)
    relocated = _relocated(kernel, target, files)
    if not existing:
        return "emitted" if _write_folder(relocated, parent, target) else "lost_race"
    try:
        state = _state_of(relocated, target, existing)
        if state != "unfinished":
            return state
        if time.time() - _youngest(target) < times.SETTLED_AFTER_S:
            return "busy"
        mendable = _rest_is_equal(kernel, target, existing)
    except FileNotFoundError:
        return "lost_race"  # another process is replacing the folder right now
    if mendable:
        return _mend(relocated, parent, target, existing)
    return _replace(relocated, parent, target)


def _listing(target: str) -> set[str] | None:
    """Return the names in a folder; None where it, or anything in it, is a link."""
    if is_link(target):
        return None
    try:
        with os.scandir(target) as found:
            entries = list(found)
    except FileNotFoundError:
        return set()
    return None if any(entry.is_symlink() for entry in entries) else {entry.name for entry in entries}


def _relocated(kernel: Kernel, target: str, files: Files) -> dict[str, bytes]:
    """Return name -> bytes of what is to be written, in writing order: group files come last."""
    names = launch_files(kernel) if files == "launch" else {file.name for file in kernel.files}
    relocated, groups = {}, {}
    for file in kernel.files:
        if file.name not in names:
            continue
        if is_group(file.name):
            groups[file.name] = relocate_group(kernel, file.name, file.payload, names, target)
        else:
            relocated[file.name] = relocate_in(file.name, file.payload, target)
    return relocated | groups


def _write_folder(relocated: dict[str, bytes], parent: str, target: str, *, aside: str | None = None) -> bool:
    """Write a whole folder and return whether it is in place; what was there is moved to `aside`, if given."""
    temporary = temporary_path(parent)
    try:
        try:
            os.mkdir(temporary)
        except FileNotFoundError:
            os.makedirs(parent, exist_ok=True)
            os.mkdir(temporary)
        for name, payload in relocated.items():
            write_new(temporary + os.sep + name, payload)
        if _WINDOWS:
            from filelock import FileLock  # takes longer to import than this room

            with FileLock(target + ".lock", mode=0o600):
                won = _install(temporary, target, aside)
        else:
            won = _install(temporary, target, aside)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if not won:
        shutil.rmtree(temporary, ignore_errors=True)
    return won


def _install(temporary: str, target: str, aside: str | None) -> bool:
    if aside is not None:
        with contextlib.suppress(FileNotFoundError):  # another process moved it aside at the same moment
            os.rename(target, aside)
    if _WINDOWS and os.path.isdir(target) and not os.listdir(target):
        os.rmdir(target)  # a rename never replaces a folder there, not even an empty one
    try:
        os.replace(temporary, target)
    except OSError as exc:
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST) or (_WINDOWS and os.path.isdir(target)):
            return False
        raise
    return True


def _replace(relocated: dict[str, bytes], parent: str, target: str) -> Outcome:
    aside = temporary_path(parent)
    try:
        return "repaired" if _write_folder(relocated, parent, target, aside=aside) else "lost_race"
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _mend(relocated: dict[str, bytes], parent: str, target: str, existing: set[str]) -> Outcome:
    for name, payload in relocated.items():
        if is_group(name) or name not in existing:
            replace_file(os.path.join(target, name), payload, temporary_path(parent))
    return "repaired"


def _emit_ungrouped(kernel: Kernel, parent: str, target: str, existing: set[str]) -> Outcome:
    if not all(file.name.endswith(UNGROUPED_SUFFIXES) for file in kernel.files):
        raise FormatError(f"kernel {kernel.hash} has no group file: half a kernel is not written")
    outcome: Outcome = "present"
    os.makedirs(target, exist_ok=True)
    for file in kernel.files:
        path = os.path.join(target, file.name)
        if file.name in existing:
            if not is_damaged(path) or time.time() - os.stat(path).st_mtime < times.SETTLED_AFTER_S:
                continue
            outcome = "repaired"
        elif outcome == "present":
            outcome = "emitted"
        try:
            replace_file(path, relocate_in(file.name, file.payload, target), temporary_path(parent))
        except BaseException:
            with contextlib.suppress(OSError):
                os.rmdir(target)  # unless there is something in it
            raise
    return outcome


_State = Literal["present", "conflict", "unfinished"]


def _state_of(relocated: dict[str, bytes], target: str, existing: set[str]) -> _State:
    """Say what a folder that is not empty is to a kernel.

    Args:
        relocated: the files that are to be written, as they would stand in the folder.
        target: the folder.
        existing: the names in it.
    """
    groups = [name for name in existing if is_group(name)]
    if not groups or not all(_is_finished(target, name, existing) for name in groups):
        return "unfinished"
    facts = [name for name in relocated if name.endswith(".json") and not is_group(name)]
    binaries = [name for name in relocated if name.endswith(BINARY_SUFFIXES)]
    if not facts or not binaries:
        # Not a backend whose launch facts are known here: only equal bytes are the same kernel.
        same = all(name in existing and read_file(os.path.join(target, name)) == relocated[name] for name in relocated)
        return "present" if same else "conflict"
    local = {name: read_file(os.path.join(target, name)) for name in facts if name in existing}
    if any(launch_facts(payload) is None for payload in local.values()):
        return "unfinished"
    if not all(name in local and _same_facts(local[name], relocated[name]) for name in facts):
        return "conflict"
    return "present" if all(_is_good(target, name, relocated[name], existing) for name in binaries) else "unfinished"


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


def _youngest(target: str) -> float:
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


def _rest_is_equal(kernel: Kernel, target: str, existing: set[str]) -> bool:
    """Whether the files that are there are the kernel's; its own group files do not count, they are written anew."""
    stored = {file.name: file.payload for file in kernel.files}
    if any(is_group(name) and name not in stored for name in existing):
        return False
    for name in existing & stored.keys():
        path, ours = os.path.join(target, name), relocate_in(name, stored[name], target)
        if is_group(name):
            continue
        if not os.path.isfile(path):
            return False
        local = read_file(path)
        if local != ours and not (name.endswith(".json") and _same_facts(local, ours)):
            return False
    return True
