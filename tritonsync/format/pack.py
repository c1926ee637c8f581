"""Packs: the files of a bundle as one `.tar.zst` object that has the same bytes on every run.

A pack is one zstd frame (level 3, one thread, a window of at most 8 MiB, size stated, no checksum) around a tar archive
whose headers follow from the manifest alone (`tar.py`). A reader knows each byte that is not content before it reads
it, and how much content there is. It decompresses file by file and holds no more than the files, one window and the
pack itself; whatever is missing, renamed, repeated, added or out of order is a difference from a header it expects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import zstandard

from tritonsync.errors import FormatError, PackError
from tritonsync.format import tar
from tritonsync.format.bundle import Bundle, Payload
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.format.manifest import FileEntry, KernelEntry, Manifest
from tritonsync.format.objects import kernel_prefix

__all__ = ["assemble", "decode", "encode"]

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


def decode(data: bytes, manifest: Manifest) -> Bundle:
    """Read the pack of a manifest.

    Every byte is checked: size and sha256 of the pack, each tar header, size and sha256 of each file. No memory is
    spent before the frame promises exactly the size that the manifest does.

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
        _check_frame(data, sum(tar.size_of(path, entry.size) for path, entry in manifest.members()) + len(tar.END))
        with zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG).stream_reader(data) as stream:
            bundle = _bundle(manifest, lambda path, entry: _member(stream, path, entry))
            if stream.read(len(tar.END)) != tar.END or stream.read(1) != b"":
                raise PackError("the pack does not end after the last file of its manifest")
    except zstandard.ZstdError as exc:
        raise PackError(f"the pack cannot be decompressed: {exc}") from exc
    return bundle


def assemble(manifest: Manifest, members: Mapping[str, bytes]) -> Bundle:
    """Make the bundle of a manifest from loose files: the way without a pack.

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
        yield tar.header(path, file.size)
        yield file.payload if isinstance(file, KernelFile) else file.data
        yield tar.padding(file.size)
    yield tar.END


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
    expected = tar.header(path, entry.size)
    if stream.read(len(expected)) != expected:
        raise PackError(f"the pack does not hold {path} in its place")
    content = stream.read(entry.size) if entry.size else b""
    fill = tar.padding(entry.size)
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
