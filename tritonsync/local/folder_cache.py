"""Cache folders of other libraries: what of them travels is found and read, and written where it is missing.

What a library puts there at one moment appears here at one moment: a file, a folder with all that is in it, or
everything. It is written under a random name and renamed. What is there stays as it is, whatever it holds; links are
neither followed nor replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tritonsync.errors import FormatError, HostileNameError, LocalCacheError
from tritonsync.format.folder import MAX_BYTES, MAX_FILES, FolderFile, is_fit
from tritonsync.local.files import (
    HIDDEN_PREFIX,
    check_owner,
    disk_errors,
    is_link,
    read_file,
    remove_stale,
    temporary_path,
    write_new,
)
from tritonsync.local.presence import is_whole_elf
from tritonsync.local.presets import Part

__all__ = [
    "ANYTHING",
    "Place",
    "Placed",
    "Snapshot",
    "absent",
    "collect",
    "left_out",
    "place",
    "snapshot",
    "sweep",
    "units",
]

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Never travel, in no folder: locks, and what is being built.
_NEVER = re.compile(r"\.?tmp.*|.*(\.lock|\.tmp|\.part|~)", re.IGNORECASE)
#: Files and folders that are looked at in one folder.
_MAX_SEEN = 200_000
_MAX_DEPTH = 8
#: How the content of files is checked, by the ends of their names.
_JSON, _ELF = (".json", ".best_config"), (".cubin", ".hsaco", ".so")

#: Of a folder that only its user knows: every file.
ANYTHING = (Part(re.compile(r".+")),)


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder: where it is, what of it travels, and what names it, for messages."""

    path: Path
    parts: tuple[Part, ...]
    variable: str


@dataclasses.dataclass(frozen=True)
class Placed:
    """How many files were written, and how many units' files were left alone, since there was something already."""

    written: int
    present: int


@dataclasses.dataclass(frozen=True)
class _Found:
    path: str
    size: int
    changed: int


#: Units, by the path of the file or folder; its files.
Snapshot = Mapping[str, tuple[_Found, ...]]


def snapshot(folder: Place) -> Snapshot:
    """Return what of a folder can travel, as it is now: names, sizes and times; nothing is read.

    Raises:
        LocalCacheError: the folder cannot be listed, or others may write into it.
    """
    check_owner(folder.path, folder.variable)
    with disk_errors("list the cache folder", folder.path):
        return _units(folder.parts, list(_walk(os.fspath(folder.path), folder.parts)), lambda found: found.path)


def collect(folder: Place, found: Snapshot) -> tuple[FolderFile, ...]:
    """Read what was found, the newest first where it is too much for one bundle.

    What is gone meanwhile, or damaged, is left out, whole units at a time.

    Raises:
        LocalCacheError: a file cannot be read.
    """
    files: list[FolderFile] = []
    left, skipped = MAX_BYTES, 0
    for unit, parts in sorted(found.items(), key=lambda pair: (-max(file.changed for file in pair[1]), pair[0])):
        if len(files) + len(parts) > MAX_FILES or sum(file.size for file in parts) > left:
            skipped += 1
            continue
        with disk_errors("read", folder.path / unit):
            read = [_read(folder.path, file) for file in parts]
        whole = [file for file in read if file is not None]
        if len(whole) < len(read):
            continue  # gone, or being written
        why = next((why for file in whole if (why := _why_damaged(file))), None)
        if why is not None:
            log.warning("%s is left out: %s", folder.path / unit, why)
            continue
        files += whole
        left -= sum(len(file.data) for file in whole)
    if skipped:
        log.warning("%s: %d older entries are left out; a bundle holds %d bytes", folder.path, skipped, MAX_BYTES)
    return tuple(files)


def units(folder: Place, files: Iterable[FolderFile]) -> Mapping[str, tuple[FolderFile, ...]]:
    """Group files by what appears at one moment, as in a snapshot; what does not belong there is left out."""
    return _units(folder.parts, list(files), lambda file: file.path)


def absent(folder: Place, paths: Iterable[str]) -> tuple[str, ...]:
    """Return those of these files that would be written: there is nothing yet for the unit that they belong to."""
    wanted = _units(folder.parts, list(paths), lambda path: path, complete=False)
    return tuple(path for unit, group in wanted.items() if not _is_taken(folder.path / unit) for path in group)


def left_out(folder: Place) -> tuple[str, ...]:
    """Return the files and links of a folder that cannot travel, whatever they are; not what is being built.

    Raises:
        LocalCacheError: the folder cannot be listed.
    """
    found = []
    with disk_errors("list the cache folder", folder.path):
        for root, folders, files in os.walk(folder.path):
            folders[:] = [name for name in folders if not _NEVER.fullmatch(name)]
            links = [name for name in folders if is_link(Path(root, name))]
            for name in (*links, *files):
                path = Path(root, name)
                below = path.relative_to(folder.path).as_posix()
                is_deep = below.count("/") >= _MAX_DEPTH
                if not _NEVER.fullmatch(name) and (is_link(path) or is_deep or _part_of(below, folder.parts) is None):
                    found.append(below)
    return tuple(sorted(found))


def place(folder: Place, files: Sequence[FolderFile]) -> Placed:
    """Write the files of units that are not there.

    Raises:
        HostileNameError: a file is none that such a folder has.
        FormatError: a unit is not whole, or a file is damaged.
        LocalCacheError: the folder cannot be written, or others may write into it.
    """
    wanted = units(folder, files)
    strange = {file.path for file in files} - {file.path for group in wanted.values() for file in group}
    if strange:
        raise HostileNameError(f"{min(strange)!r} is no file of {folder.path}, or one of a folder that is not whole")
    for file in files:
        why = _why_damaged(file)
        if why is not None:
            raise FormatError(why)
    check_owner(folder.path, folder.variable)
    written = present = 0
    for unit, group in wanted.items():
        with disk_errors("write", folder.path / unit):
            done = not _is_taken(folder.path / unit) and _write(folder.path, unit, group)
        written += len(group) if done else 0
        present += 0 if done else len(group)
    return Placed(written, present)


def sweep(folder: Place) -> None:
    """Remove what processes of this user that were killed left behind, an hour later.

    Raises:
        LocalCacheError: others may write into the folder.
    """
    check_owner(folder.path, folder.variable)
    for parent in {folder.path.parent if part.unit == "everything" else folder.path for part in folder.parts}:
        with contextlib.suppress(OSError), os.scandir(parent) as entries:
            for entry in entries:
                if entry.name.startswith(HIDDEN_PREFIX) and _is_own(entry):
                    remove_stale(entry)


def _is_own(entry: os.DirEntry[str]) -> bool:
    """Whether it is this user's; what a folder lies in may be shared with others."""
    return not hasattr(os, "geteuid") or entry.stat(follow_symlinks=False).st_uid == os.geteuid()


def _walk(root: str, parts: tuple[Part, ...]) -> Iterator[_Found]:
    """Yield the regular files of a folder that belong to one of the parts; links are passed over."""
    seen = 0
    folders = [(root, "", 1)]
    while folders:
        folder, below, depth = folders.pop()
        try:
            with os.scandir(folder) as listed:
                entries = list(listed)
        except (FileNotFoundError, NotADirectoryError):
            continue
        seen += len(entries)
        if seen > _MAX_SEEN:
            raise LocalCacheError(f"{root} holds more than {_MAX_SEEN} files and folders, too many for a bundle")
        for entry in entries:
            path = below + entry.name
            if entry.is_dir(follow_symlinks=False):
                if depth < _MAX_DEPTH and not _NEVER.fullmatch(entry.name):
                    folders.append((entry.path, f"{path}/", depth + 1))
            elif _part_of(path, parts) is not None and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat(follow_symlinks=False)
                    yield _Found(path, stat.st_size, stat.st_mtime_ns)


def _part_of(path: str, parts: tuple[Part, ...]) -> Part | None:
    """Return the part that a file belongs to; None for what does not travel."""
    part = next((part for part in parts if part.path.fullmatch(path)), None)
    return part if is_fit(path) and not any(map(_NEVER.fullmatch, path.split("/"))) else None


def _units(
    parts: tuple[Part, ...], files: Sequence[T], path_of: Callable[[T], str], *, complete: bool = True
) -> Mapping[str, tuple[T, ...]]:
    """Group files by what appears at one moment; what belongs to no part, or to no whole unit, is left out."""
    found: dict[str, list[T]] = {}
    needs: dict[str, frozenset[str]] = {}
    for file in files:
        path = path_of(file)
        part = _part_of(path, parts)
        if part is None:
            continue
        unit = {"file": path, "folder": path.rpartition("/")[0], "everything": ""}[part.unit]
        found.setdefault(unit, []).append(file)
        needs[unit] = part.needs
    return {
        unit: tuple(sorted(group, key=path_of))
        for unit, group in found.items()
        if not complete or needs[unit] <= {path_of(file).removeprefix(f"{unit}/") for file in group}
    }


def _read(root: Path, file: _Found) -> FolderFile | None:
    """Read a file; None where it is gone, or another one by now."""
    try:
        data = read_file(os.fspath(root / file.path))
    except FileNotFoundError:
        return None
    return FolderFile(file.path, data) if len(data) == file.size else None


def _why_damaged(file: FolderFile) -> str | None:
    """Say what is wrong with a file's content, as far as its name tells what it has to be."""
    if file.path.endswith(_JSON):
        try:
            json.loads(file.data)
        except (ValueError, RecursionError):
            return f"{file.path} is not JSON"
    if file.path.endswith(_ELF) and not is_whole_elf(file.data):
        return f"{file.path} is no binary, or was cut short"
    return None


def _is_taken(path: Path) -> bool:
    """Whether there is anything: a file, a link, or a folder that is not empty."""
    if is_link(path) or not path.is_dir():
        return os.path.lexists(path)
    with os.scandir(path) as entries:
        return any(True for _ in entries)


def _write(root: Path, unit: str, files: Sequence[FolderFile]) -> bool:
    """Write one unit; return whether it is ours that is there now.

    Raises:
        OSError: it cannot be written.
    """
    target = root / unit
    if unit:
        _make_parents(root, unit)
    else:
        root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(temporary_path(os.fspath(root if unit else root.parent), HIDDEN_PREFIX))
    try:
        if len(files) == 1 and files[0].path == unit:
            write_new(os.fspath(temporary), files[0].data)
            return _rename_file(temporary, target)
        for file in files:
            path = temporary / (file.path.removeprefix(f"{unit}/") if unit else file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_new(os.fspath(path), file.data)
        return _rename_folder(temporary, target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _make_parents(root: Path, unit: str) -> None:
    """Make the folders that a unit lies in.

    Raises:
        OSError: one cannot be made, or is a link, behind which is another folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root
    for part in unit.split("/")[:-1]:
        folder /= part
        if is_link(folder):
            raise OSError(errno.ELOOP, "it is a link, which is not followed", os.fspath(folder))
        folder.mkdir(exist_ok=True)


def _rename_file(temporary: Path, target: Path) -> bool:
    try:
        os.link(temporary, target)  # unlike a rename, it never takes the place of what came meanwhile
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if os.path.lexists(target):
            return False
        temporary.replace(target)
    return True


def _rename_folder(temporary: Path, target: Path) -> bool:
    try:
        temporary.replace(target)  # over nothing, or an empty folder
    except OSError as exc:
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True
