"""Kernels as a bucket holds them: the files of one folder of the local Triton cache, freed of the folder's path.

Triton names the folder by its cache key (the kernel hash) and writes the folder's own absolute path into
`__grp__<name>.json` (triton/runtime/cache.py, 3.6). A stored kernel has the sentinel `[REPLACE]` in its place, the same
one that PyTorch's TritonBundler uses (torch/_inductor/triton_bundler.py, 2.13), so that the bytes inside an FX graph
value and the bytes in a bucket are equal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import PurePath

from tritonsync.errors import FormatError
from tritonsync.format.layout import check_name

__all__ = [
    "BINARY_SUFFIXES",
    "GROUP_PREFIX",
    "MAX_DEVICE",
    "SENTINEL",
    "Kernel",
    "KernelFile",
    "content_id",
    "relocate_in",
    "relocate_out",
]

#: Stands for the absolute path of the kernel's folder in stored `.json` files.
SENTINEL = b"[REPLACE]"
#: `__grp__<name>.json` lists the files that make up a compiled kernel.
GROUP_PREFIX = "__grp__"
#: Launchable binaries of Triton's backends (GPU_KERNEL_BIN_EXTS of torch/_inductor/utils.py, 2.13, and AMD's, Intel's).
BINARY_SUFFIXES = (".cubin", ".hsaco", ".zebin", ".spv")


#: No host has more; what says so is not believed.
MAX_DEVICE = 65_535


@dataclasses.dataclass(frozen=True)
class KernelFile:
    """One file of a kernel, in stored form.

    Attributes:
        name: the file's name, without a folder.
        payload: its bytes; not shown in the repr.
    """

    name: str
    payload: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        check_name(self.name, "file name")

    @cached_property
    def sha256(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self.payload).hexdigest()

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.payload)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One compiled kernel: the whole content of its folder, in stored form.

    Attributes:
        hash: the kernel hash, Triton's name of the folder.
        device: the device index of the cache folder it was found in, or None where kernels are not kept per device.
        files: sorted by name; every name once.
    """

    hash: str
    device: int | None
    files: tuple[KernelFile, ...]

    def __post_init__(self) -> None:
        check_name(self.hash, "kernel hash")
        if self.device is not None and not 0 <= self.device <= MAX_DEVICE:
            raise FormatError(f"kernel {self.hash}: device {self.device} is not 0 to {MAX_DEVICE}")
        ordered = tuple(sorted(self.files, key=lambda file: file.name))
        if any(a.name == b.name for a, b in itertools.pairwise(ordered)):
            raise FormatError(f"kernel {self.hash} holds a file name twice")
        object.__setattr__(self, "files", ordered)

    @cached_property
    def content_id(self) -> str:
        """32 hex digits that name exactly these files; not the hash or device they were found under."""
        return content_id((file.name, file.size, file.sha256) for file in self.files)

    @property
    def name(self) -> str:
        """The kernel function's name, or the hash where the folder does not tell."""
        for file in self.files:
            if file.name.endswith(BINARY_SUFFIXES):
                return PurePath(file.name).stem
        return self.hash

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def content_id(files: Iterable[tuple[str, int, str]]) -> str:
    """Name a set of files: 32 hex digits of the sha256 over their sorted (name, size, sha256)."""
    listing = json.dumps(sorted(files), separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(listing.encode()).hexdigest()[:32]


def relocate_out(name: str, payload: bytes, directories: Iterable[str]) -> bytes:
    """Bring a file of a kernel folder into stored form: in `.json` files, the folder's path becomes the sentinel.

    Args:
        name: of the file.
        payload: its bytes.
        directories: every path under which the folder is known: where it lies, and where it was written.

    Raises:
        FormatError: a `.json` file holds the sentinel already, so that it could not be relocated again without damage.
    """
    if not name.endswith(".json"):
        return payload
    if SENTINEL in payload:
        raise FormatError(f"{name} holds {SENTINEL.decode()}, which stands for a folder when stored")
    texts = {text for directory in directories for text in (directory.encode(), _in_json(directory))}
    # The longest first: one may be the end of another.
    for text in sorted(texts, key=lambda text: (-len(text), text)):
        payload = payload.replace(text, SENTINEL)
    return payload


def relocate_in(name: str, payload: bytes, directory: str) -> bytes:
    """Bring a stored file into the form it has in the folder `directory`: the sentinel becomes the path."""
    if not name.endswith(".json"):
        return payload
    return payload.replace(SENTINEL, _in_json(directory))


def _in_json(directory: str) -> bytes:
    """Return a path as Triton's `json.dumps` writes it: quotes, backslashes and all but ASCII are escaped."""
    return json.dumps(directory)[1:-1].encode()
