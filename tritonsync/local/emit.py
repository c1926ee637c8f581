"""Writing a kernel folder into Triton's cache: it appears whole or not at all.

A new folder is written under a random name beside its place and renamed over it. What to do with a folder that is there
already follows from what it is:

=============  =========================================================================================================
present        finished, and either the same launch facts (`<name>.json`, without the paths in `extern_libs`) with a
               whole binary, or the same bytes: left alone
conflict       finished, with other launch facts: left alone, and reported. A graph value whose static autotuners were
               made for the other binary must not be used on this host.
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

from filelock import FileLock

from tritonsync.errors import FormatError
from tritonsync.format.kernel import Kernel, place
from tritonsync.local.atomic import disk_errors, replace_file, temporary_path, write_new
from tritonsync.local.group import LOOSE_SUFFIXES, is_group, launch_files, place_group
from tritonsync.local.judge import is_damaged, judge, rest_is_equal, youngest
from tritonsync.settings import Files

__all__ = ["SETTLED_AFTER_S", "Emitted", "Outcome", "emit"]

Outcome = Literal["emitted", "repaired", "present", "lost_race", "busy", "conflict"]

#: Seconds without a change after which an unfinished folder is taken for abandoned.
SETTLED_AFTER_S = 600

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
        LocalCacheError: the folder cannot be read or written.
    """
    parent = os.path.abspath(base)
    target = os.path.join(parent, kernel.hash)
    with disk_errors("write the kernel folder", target):
        return Emitted(_emit(kernel, parent, target, files), Path(target))


def _emit(kernel: Kernel, parent: str, target: str, files: Files) -> Outcome:
    existing = _listing(target)
    if not any(is_group(file.name) for file in kernel.files):
        return _emit_loose(kernel, parent, target, existing)
    placed = _place(kernel, target, files)
    if not existing:
        return "emitted" if _write_folder(placed, parent, target) else "lost_race"
    try:
        verdict = judge(placed, target, existing)
        if verdict != "unfinished":
            return verdict
        if time.time() - youngest(target) < SETTLED_AFTER_S:
            return "busy"
        mendable = rest_is_equal(kernel, target, existing)
    except FileNotFoundError:
        return "lost_race"  # another process is replacing the folder right now
    if mendable:
        return _mend(placed, parent, target, existing)
    return _replace(placed, parent, target)


def _listing(target: str) -> set[str]:
    try:
        return set(os.listdir(target))
    except FileNotFoundError:
        return set()


def _place(kernel: Kernel, target: str, files: Files) -> dict[str, bytes]:
    """Return name -> bytes of what is to be written, in writing order: group files come last."""
    names = launch_files(kernel) if files == "launch" else {file.name for file in kernel.files}
    placed, groups = {}, {}
    for file in kernel.files:
        if file.name not in names:
            continue
        if is_group(file.name):
            groups[file.name] = place_group(kernel, file.name, file.payload, names, target)
        else:
            placed[file.name] = place(file.name, file.payload, target)
    return placed | groups


def _write_folder(placed: dict[str, bytes], parent: str, target: str, *, aside: str | None = None) -> bool:
    """Write a whole folder and return whether it is in place; what was there is moved to `aside`, if given."""
    temporary = temporary_path(parent)
    try:
        try:
            os.mkdir(temporary)
        except FileNotFoundError:
            os.makedirs(parent, exist_ok=True)
            os.mkdir(temporary)
        for name, payload in placed.items():
            write_new(temporary + os.sep + name, payload)
        if _WINDOWS:
            with FileLock(target + ".lock"):
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


def _replace(placed: dict[str, bytes], parent: str, target: str) -> Outcome:
    aside = temporary_path(parent)
    try:
        return "repaired" if _write_folder(placed, parent, target, aside=aside) else "lost_race"
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _mend(placed: dict[str, bytes], parent: str, target: str, existing: set[str]) -> Outcome:
    for name, payload in placed.items():
        if is_group(name) or name not in existing:
            replace_file(os.path.join(target, name), payload, temporary_path(parent))
    return "repaired"


def _emit_loose(kernel: Kernel, parent: str, target: str, existing: set[str]) -> Outcome:
    if not all(file.name.endswith(LOOSE_SUFFIXES) for file in kernel.files):
        raise FormatError(f"kernel {kernel.hash} has no group file: half a kernel is not written")
    outcome: Outcome = "present"
    os.makedirs(target, exist_ok=True)
    for file in kernel.files:
        path = os.path.join(target, file.name)
        if file.name in existing:
            if not is_damaged(path) or time.time() - os.stat(path).st_mtime < SETTLED_AFTER_S:
                continue
            outcome = "repaired"
        elif outcome == "present":
            outcome = "emitted"
        replace_file(path, place(file.name, file.payload, target), temporary_path(parent))
    return outcome
