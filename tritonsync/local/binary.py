"""Whether a compiled binary is whole.

An ELF file (System V ABI, chapter 4; `.cubin`, `.hsaco`, `.zebin` and `.so` are ELF) names in its header where its
program and section header tables lie, and the section table names where each section lies. In a file that was cut
short, one of them points past the end. That is all that is read: it finds truncation, not flipped bits.
"""

from __future__ import annotations

import struct

__all__ = ["ELF_MAGIC", "is_elf", "is_whole_elf"]

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
