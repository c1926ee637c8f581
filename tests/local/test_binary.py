"""ELF files that are whole, and those that were cut short."""

from __future__ import annotations

import struct

import pytest

from tests.kernels import CompiledKernels, file_of
from tritonsync.local.presence import is_elf, is_whole_elf


def test_a_real_cubin_is_whole(compiled_kernels: CompiledKernels) -> None:
    """Every binary that Triton makes is whole."""
    for kernel in compiled_kernels.kernels():
        assert is_whole_elf(file_of(kernel, ".cubin").payload)


def test_every_truncation_of_a_real_cubin_is_found(compiled_kernels: CompiledKernels) -> None:
    """However little is missing, the file is not whole."""
    cubin = file_of(compiled_kernels.kernel(), ".cubin").payload
    for length in [*range(0, len(cubin), 97), len(cubin) - 1]:
        assert not is_whole_elf(cubin[:length])


def test_other_bytes_are_no_elf() -> None:
    """Text, an empty file and a bare magic are not whole ELF files."""
    assert not is_elf(b"")
    assert not is_whole_elf(b"")
    assert not is_whole_elf(b"// PTX")
    assert is_elf(b"\x7fELF")
    assert not is_whole_elf(b"\x7fELF")


@pytest.mark.parametrize("order", ["<", ">"])
def test_32_bit_and_big_endian_headers_are_read(order: str) -> None:
    """Class and byte order come from the header."""
    ident = b"\x7fELF" + bytes([1, 1 if order == "<" else 2]) + bytes(10)
    # One section of type PROGBITS, 4 bytes at offset 52; its header behind it.
    header = struct.pack(order + "HHIIIIIHHHHHH", 1, 0, 1, 0, 0, 56, 0, 52, 0, 0, 40, 1, 0)
    section = struct.pack(order + "10I", 0, 1, 0, 0, 52, 4, 0, 0, 0, 0)
    whole = ident + header + b"code" + section
    assert is_whole_elf(whole)
    assert not is_whole_elf(whole[:-1])
    too_long = struct.pack(order + "10I", 0, 1, 0, 0, 52, 400, 0, 0, 0, 0)
    assert not is_whole_elf(ident + header + b"code" + too_long)


def test_a_section_without_room_in_the_file_may_be_any_size() -> None:
    """NOBITS sections (.bss) have a size and no bytes."""
    ident = b"\x7fELF" + bytes([2, 1]) + bytes(10)
    header = struct.pack("<HHIQQQIHHHHHH", 1, 0, 1, 0, 0, 64, 0, 64, 0, 0, 64, 1, 0)
    section = struct.pack("<IIQQQQIIQQ", 0, 8, 0, 0, 64, 1 << 40, 0, 0, 0, 0)
    assert is_whole_elf(ident + header + section)
