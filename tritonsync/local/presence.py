"""Is it here already, and is it whole? Cheap questions that a download can be saved by.

An ELF file (System V ABI, chapter 4; `.cubin`, `.hsaco`, `.zebin` and `.so` are ELF) names in its header where its
program and section header tables lie, and the section table names where each section lies. In a file that was cut
short, one of them points past the end. That is all that is read: it finds truncation, not flipped bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tritonsync.errors import FormatError
from tritonsync.format.bundle import GRAPHS, Digest
from tritonsync.format.kernel import BINARY_SUFFIXES, GROUP_PREFIX
from tritonsync.local.files import disk_errors, is_link, read_file
from tritonsync.local.group import MODULE_SUFFIXES, UNGROUPED_SUFFIXES, children, is_group
from tritonsync.local.inductor_cache import value_path

__all__ = [
    "is_damaged",
    "is_elf",
    "is_group_usable",
    "is_kernel_here",
    "is_key_here",
    "is_value_here",
    "is_variant_here",
    "is_whole_elf",
    "launch_facts",
]

ELF_MAGIC = b"\x7fELF"
#: Sections of this type take no room in the file.
_SHT_NOBITS = 8


def is_elf(data: bytes) -> bool:
    """Return whether the bytes begin as an ELF file does."""
    return data.startswith(ELF_MAGIC)


def is_whole_elf(data: bytes) -> bool:
    """Return whether this is an ELF file whose header tables and sections all lie inside it."""
    if len(data) < 16 or not is_elf(data):
        return False
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    header = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
    section = struct.Struct(order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"))
    if len(data) < 16 + header.size:
        return False
    _, _, _, _, programs_at, sections_at, _, _, program_size, programs, section_size, sections, _ = header.unpack_from(
        data, 16
    )
    if programs_at + program_size * programs > len(data) or sections_at + section_size * sections > len(data):
        return False
    if sections and section_size < section.size:
        return False
    for index in range(sections):
        _, kind, _, _, offset, size, *_ = section.unpack_from(data, sections_at + index * section_size)
        if kind != _SHT_NOBITS and offset + size > len(data):
            return False
    return True


def is_damaged(path: str) -> bool:
    """Whether a single file is empty, cut short, a link, or a `.json` that cannot be read."""
    if is_link(path):
        return True
    local = read_file(path)
    if path.endswith(".json"):
        return launch_facts(local) is None
    return not local or (is_elf(local) and not is_whole_elf(local))


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


def is_key_here(inductor_dir: Path, kind: str, key: str) -> bool:
    """Return whether Inductor's folder has any value of this key."""
    try:
        path = value_path(inductor_dir, kind, key, "0" * 64)
    except FormatError:
        return False
    there = path.parent if kind in GRAPHS else path
    return there.exists() and not is_link(there)


def is_value_here(inductor_dir: Path, kind: str, key: str, value: Digest) -> bool:
    """Return whether Inductor's folder has exactly this value.

    Raises:
        LocalCacheError: the file cannot be read.
    """
    try:
        path = value_path(inductor_dir, kind, key, value.sha256)
    except FormatError:
        return False
    if is_link(path):
        return False
    with disk_errors("read the value", path):
        try:
            data = read_file(os.fspath(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
    return len(data) == value.size and hashlib.sha256(data).hexdigest() == value.sha256


def is_kernel_here(directory: Path) -> bool:
    """Return whether a kernel folder is finished, as Triton sees it: its group is there with every file it lists.

    Binaries and launch facts have to be whole.

    The paths in a group have to lead into this folder; those of a cache that was moved do not. A folder without a group
    is finished where it holds helper modules or timings, and nothing else. A link, and a folder with links, is none.

    Raises:
        LocalCacheError: the folder cannot be read.
    """
    with disk_errors("read the kernel folder", directory):
        try:
            if is_link(directory):
                return False
            with os.scandir(directory) as found:
                entries = list(found)
            if any(entry.is_symlink() for entry in entries):
                return False
            names = {entry.name for entry in entries}
            groups = [read_file(os.fspath(directory / name)) for name in names if is_group(name)]
            needed = [name for name in names if name.endswith((*BINARY_SUFFIXES, ".json")) and not is_group(name)]
            if groups and any(is_damaged(os.fspath(directory / name)) for name in needed):
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
    if not groups:
        return bool(names) and all(name.endswith(UNGROUPED_SUFFIXES) for name in names)
    return all(_is_whole(group, os.path.abspath(directory), names) for group in groups)


def is_variant_here(directory: Path, variant: str) -> bool:
    """Return whether a kernel folder is finished, and holds what a bundle of this variant does.

    Helper modules of several Pythons share a folder: `<name><EXT_SUFFIX>`, in a variant named `<EXT_SUFFIX>-<machine>`
    without the first dot. Everything else that a folder may hold is for all who read it.

    Raises:
        LocalCacheError: the folder cannot be read.
    """
    if not is_kernel_here(directory):
        return False
    with disk_errors("read the kernel folder", directory):
        modules = [name for name in os.listdir(directory) if name.endswith(MODULE_SUFFIXES)]
    return not modules or any(variant.startswith(f"{name.partition('.')[2]}-") for name in modules)


def _is_whole(group: bytes, directory: str, names: Collection[str]) -> bool:
    listed = children(group)
    return listed is not None and all(
        name in names and path == os.path.join(directory, name) for name, path in listed.items()
    )


def is_group_usable(directory: Path, metadata: str, group: Mapping[str, str]) -> bool:
    """Return whether Triton can make a kernel of what its own manager found.

    It reads `<name>.json` and the binary without a look at either, and fails where they are cut short or, in 3.6, where
    the binary is missing (triton/compiler/compiler.py, CompiledKernel). Files of the stages before may be missing.

    Args:
        directory: the kernel's folder.
        metadata: the name of the `.json` file.
        group: names and paths of the files that are there.

    Raises:
        LocalCacheError: a file cannot be read.
    """
    with disk_errors("read the kernel folder", directory):
        if metadata not in group:
            return False
        binaries = [name for name in group if name.endswith(BINARY_SUFFIXES)]
        if not binaries:
            listed = children(read_file(os.fspath(directory / f"{GROUP_PREFIX}{metadata}"))) or {}
            if any(name.endswith(BINARY_SUFFIXES) for name in listed):
                return False
        return not any(is_damaged(group[name]) for name in (metadata, *binaries))
