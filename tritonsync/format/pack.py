"""Packs: the files of a bundle as one `.tar.zst` object that has the same bytes on every run.

A pack is one zstd frame (level 3, one thread, a window of at most 8 MiB, size stated, no checksum) around a tar archive
whose headers follow from the manifest alone. A reader knows each byte that is not content before it reads
it, and how much content there is. It decompresses file by file and holds no more than the files, one window and the
pack itself; whatever is missing, renamed, repeated, added or out of order is a difference from a header it expects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import zstandard

from tritonsync.errors import FormatError, PackError
from tritonsync.format.bundle import Bundle, Payload
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.format.layout import kernel_prefix
from tritonsync.format.manifest import FileEntry, KernelEntry, Manifest

__all__ = [
    "MAX_FILE_SIZE",
    "TAR_BLOCK",
    "TAR_END",
    "assemble",
    "decode",
    "encode",
    "tar_header",
    "tar_padding",
    "tar_size",
]

TAR_BLOCK = 512
#: Two blocks of zeros end an archive.
TAR_END = bytes(2 * TAR_BLOCK)
#: The size field has eleven octal digits.
MAX_FILE_SIZE = 8**11 - 1

# Written with \x00: in "\0000" the zeros would count as part of the escape.
_TAR_OWNER = b"0000644\x000000000\x000000000\x00"  # mode, uid, gid
_TAR_TIME = b"00000000000\x00"
_TAR_MAGIC = b"ustar\x0000"
_TAR_DEVICE = b"0000000\x000000000\x00"
_PAX_NAME = b"././@PaxHeader"


def tar_header(path: str, size: int) -> bytes:
    """Return the header blocks of a file.

    Args:
        path: ASCII, parts joined by slashes.
        size: bytes.

    Raises:
        PackError: it is more than `MAX_FILE_SIZE` bytes.
    """
    if size > MAX_FILE_SIZE:
        raise PackError(f"{path} has {size} bytes; a pack holds files of at most {MAX_FILE_SIZE}")
    whole = path.encode("ascii")
    folder, _, name = whole.rpartition(b"/")
    if _fits(folder, name):
        return _tar_block(name, size, b"0", folder)
    record = _pax_record(b"path", whole)
    pax = _tar_block(_PAX_NAME, len(record), b"x", b"") + record + tar_padding(len(record))
    return pax + _tar_block(name[:100], size, b"0", b"")


def tar_padding(size: int) -> bytes:
    """Return the zeros that fill a file's last block."""
    return bytes(-size % TAR_BLOCK)


def tar_size(path: str, size: int) -> int:
    """Return the bytes that a file takes in an archive: headers, content and padding."""
    folder, _, name = path.rpartition("/")
    headers = TAR_BLOCK if _fits(folder, name) else len(tar_header(path, size))
    return headers + size + -size % TAR_BLOCK


def _fits(folder: str | bytes, name: str | bytes) -> bool:
    return len(folder) <= 155 and len(name) <= 100


def _tar_block(name: bytes, size: int, kind: bytes, prefix: bytes) -> bytes:
    before = name.ljust(100, b"\0") + _TAR_OWNER + b"%011o\x00" % size + _TAR_TIME
    after = kind + bytes(100) + _TAR_MAGIC + bytes(64) + _TAR_DEVICE + prefix.ljust(167, b"\0")
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return before + b"%06o\x00 " % checksum + after


def _pax_record(key: bytes, value: bytes) -> bytes:
    # The record's length counts its own digits.
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


_LEVEL = 3
#: What RFC 8878 asks every decoder to support; kernels repeat each other over megabytes (2.5 MB become 2.1 MB).
_WINDOW_LOG = 23
#: No block of a frame is larger, compressed or not (RFC 8878, 3.1.1.2.3).
_MAX_BLOCK = 128 * 1024

Take = Callable[[str, FileEntry], bytes]
Item = TypeVar("Item", KernelFile, Payload)


def encode(bundle: Bundle) -> bytes:
    """Write a bundle's files; the order is that of `Manifest.members`.

    Raises:
        PackError: a file is too large for a pack.
    """
    chunks = list(_chunks(bundle))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, window_log=_WINDOW_LOG, write_content_size=True, write_checksum=False, write_dict_id=False, threads=0
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=sum(map(len, chunks)))
    packed = [compressor.compress(chunk) for chunk in chunks]
    return b"".join([*packed, compressor.flush()])


def decode(data: bytes, manifest: Manifest, before_each: Callable[[], None] = lambda: None) -> Bundle:
    """Read the pack of a manifest.

    Every byte is checked: size and sha256 of the pack, each tar header, size and sha256 of each file. No memory is
    spent before the frame promises exactly the size that the manifest does.

    Args:
        data: the pack.
        manifest: what it has to hold.
        before_each: called before each file; what it raises ends the work.

    Raises:
        PackError: it is not exactly the pack that the manifest describes.
    """
    if manifest.pack is None:
        raise PackError("the bundle has no pack")
    if len(data) != manifest.pack.size:
        raise PackError(f"the pack has {len(data)} bytes, not the {manifest.pack.size} of its manifest")
    if hashlib.sha256(data).hexdigest() != manifest.pack.sha256:
        raise PackError("the pack's sha256 is not that of its manifest")
    try:
        _check_frame(data, sum(tar_size(path, entry.size) for path, entry in manifest.members()) + len(TAR_END))
        with zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG).stream_reader(data) as stream:

            def take(path: str, entry: FileEntry) -> bytes:
                before_each()
                return _member(stream, path, entry)

            bundle = _bundle(manifest, take)
            if stream.read(len(TAR_END)) != TAR_END or stream.read(1) != b"":
                raise PackError("the pack does not end after the last file of its manifest")
    except zstandard.ZstdError as exc:
        raise PackError(f"the pack cannot be decompressed: {exc}") from exc
    return bundle


def assemble(manifest: Manifest, members: Mapping[str, bytes]) -> Bundle:
    """Make the bundle of a manifest from single objects: the way without a pack.

    Args:
        manifest: what is promised.
        members: path (as in `Manifest.members`) to content; exactly those.

    Raises:
        PackError: one is missing, additional, or not what the manifest promises.
    """
    promised = {path for path, _ in manifest.members()}
    for path in sorted(promised ^ members.keys()):
        raise PackError(f"{path} is {'missing' if path in promised else 'not in the manifest'}")
    return _bundle(manifest, lambda path, _: members[path])


def _chunks(bundle: Bundle) -> Iterator[bytes]:
    """Yield the archive in pieces; a kernel that stands in a bundle for several devices is written once."""
    files: dict[str, KernelFile | Payload] = {}
    for kernel in bundle.kernels:
        prefix = kernel_prefix(kernel.hash, kernel.content_id)
        files.update({prefix + file.name: file for file in kernel.files})
    files.update({f"payloads/{payload.name}": payload for payload in bundle.payloads})
    for path, file in files.items():
        yield tar_header(path, file.size)
        yield file.payload if isinstance(file, KernelFile) else file.data
        yield tar_padding(file.size)
    yield TAR_END


def _check_frame(data: bytes, content_size: int) -> None:
    """Check that the data is one zstd frame, no more and no less, that promises this size and needs a small window."""
    frame = zstandard.get_frame_parameters(data)
    if frame.content_size != content_size:
        raise PackError(f"the pack unfolds to {frame.content_size} bytes, not to the {content_size} of its manifest")
    if frame.window_size > 1 << _WINDOW_LOG or frame.dict_id or frame.has_checksum:
        raise PackError(f"the pack asks for a window of {frame.window_size} bytes, a dictionary or a checksum")
    position, last = zstandard.frame_header_size(data), False
    while not last:
        # RFC 8878, 3.1.1.2: one bit says "last", two the kind, 21 the size; a repeated byte (kind 1) takes one byte.
        block = int.from_bytes(data[position : position + 3], "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        if position + 3 > len(data) or kind == 3 or size > _MAX_BLOCK:
            raise PackError("the pack is truncated, or no zstd frame")
        position += 3 + (1 if kind == 1 else size)
    if position != len(data):
        raise PackError(f"the pack's frame has {position} bytes, the pack {len(data)}")


def _member(stream: zstandard.ZstdDecompressionReader, path: str, entry: FileEntry) -> bytes:
    """Read the next file of the archive, which must be this one."""
    expected = tar_header(path, entry.size)
    if stream.read(len(expected)) != expected:
        raise PackError(f"the pack does not hold {path} in its place")
    content = stream.read(entry.size) if entry.size else b""
    fill = tar_padding(entry.size)
    if fill and stream.read(len(fill)) != fill:
        raise PackError(f"the pack is damaged after {path}")
    return content


def _bundle(manifest: Manifest, take: Take) -> Bundle:
    """Take each file in order, check it, and put the bundle together."""
    files: dict[str, KernelFile] = {}
    payloads: list[Payload] = []
    try:
        for path, entry in manifest.members():
            if path.startswith("payloads/"):
                payloads.append(_checked(path, Payload(entry.name, take(path, entry)), entry))
            else:
                files[path] = _checked(path, KernelFile(entry.name, take(path, entry)), entry)
        inline = manifest.inline or {}
        payloads.extend(
            _checked(entry.name, Payload(entry.name, inline[entry.name].encode()), entry)
            for entry in manifest.payloads
            if entry.name in inline
        )
        kernels = [_kernel(entry, files) for entry in manifest.kernels]
        return Bundle(
            kind=manifest.kind,
            key=manifest.key,
            variant=manifest.variant,
            kernels=tuple(kernels),
            payloads=tuple(payloads),
            guards=manifest.guards,
            requires=manifest.environment.requires,
            compile_seconds=manifest.compile_seconds,
            value=manifest.value,
        )
    except PackError:
        raise
    except FormatError as exc:
        raise PackError(f"the manifest describes no bundle: {exc}") from exc


def _kernel(entry: KernelEntry, files: Mapping[str, KernelFile]) -> Kernel:
    prefix = kernel_prefix(entry.hash, entry.content_id)
    kernel = Kernel(entry.hash, entry.device, tuple(files[prefix + file.name] for file in entry.files))
    if kernel.content_id != entry.content_id:
        raise PackError(f"kernel {entry.hash}: its files are not those of content id {entry.content_id}")
    return kernel


def _checked(path: str, file: Item, entry: FileEntry) -> Item:
    """Return the file if it is the promised one; its sha256 is then known and not worked out again."""
    if file.size != entry.size or file.sha256 != entry.sha256:
        raise PackError(f"{path}: {file.size} bytes that are not the {entry.size} of the manifest")
    return file
