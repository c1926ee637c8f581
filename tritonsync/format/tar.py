"""The tar layout of packs: for each path and size exactly one header, so that a reader can compare instead of parse.

POSIX ustar: plain files, mode 0644, owner, group and time zero, the folder in `prefix` and the file's name in `name`. A
path whose folder is longer than 155 characters or whose file name is longer than 100 gets a pax header before it that
holds it whole. Every `tar` reads that.
"""

from __future__ import annotations

from tritonsync.errors import PackError

__all__ = ["BLOCK", "END", "MAX_SIZE", "header", "padding", "size_of"]

BLOCK = 512
#: Two blocks of zeros end an archive.
END = bytes(2 * BLOCK)
#: The size field has eleven octal digits.
MAX_SIZE = 8**11 - 1

# Written with \x00: in "\0000" the zeros would count as part of the escape.
_OWNER = b"0000644\x000000000\x000000000\x00"  # mode, uid, gid
_TIME = b"00000000000\x00"
_MAGIC = b"ustar\x0000"
_DEVICE = b"0000000\x000000000\x00"
_PAX_NAME = b"././@PaxHeader"


def header(path: str, size: int) -> bytes:
    """Return the header blocks of a file.

    Args:
        path: ASCII, parts joined by slashes.
        size: bytes.

    Raises:
        PackError: it is more than `MAX_SIZE` bytes.
    """
    if size > MAX_SIZE:
        raise PackError(f"{path} has {size} bytes; a pack holds files of at most {MAX_SIZE}")
    whole = path.encode("ascii")
    folder, _, name = whole.rpartition(b"/")
    if _fits(folder, name):
        return _block(name, size, b"0", folder)
    record = _pax_record(b"path", whole)
    pax = _block(_PAX_NAME, len(record), b"x", b"") + record + padding(len(record))
    return pax + _block(name[:100], size, b"0", b"")


def padding(size: int) -> bytes:
    """Return the zeros that fill a file's last block."""
    return bytes(-size % BLOCK)


def size_of(path: str, size: int) -> int:
    """Return the bytes that a file takes in an archive: headers, content and padding."""
    folder, _, name = path.rpartition("/")
    headers = BLOCK if _fits(folder, name) else len(header(path, size))
    return headers + size + -size % BLOCK


def _fits(folder: str | bytes, name: str | bytes) -> bool:
    return len(folder) <= 155 and len(name) <= 100


def _block(name: bytes, size: int, kind: bytes, prefix: bytes) -> bytes:
    before = name.ljust(100, b"\0") + _OWNER + b"%011o\x00" % size + _TIME
    after = kind + bytes(100) + _MAGIC + bytes(64) + _DEVICE + prefix.ljust(167, b"\0")
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return before + b"%06o\x00 " % checksum + after


def _pax_record(key: bytes, value: bytes) -> bytes:
    # The record's length counts its own digits.
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest
