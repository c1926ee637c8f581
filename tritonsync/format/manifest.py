"""The manifest: the JSON document that ties a bundle to its key. A bundle exists once its manifest does.

::

    {"format":1,"kind":"fx_graph","key":"fryegbp5...","variant":"default","generation":0,"guards":"",
     "created":"2026-11-23T03:44:55Z",
     "environment":{"tritonsync":"0.1.0","torch":"2.11.0+cu130","triton":"3.6.0","python":"3.12.3","cuda":"13.0",
                    "device":"NVIDIA H200","target":"cuda:90","machine":"x86_64","requires":null},
     "kernels":[{"hash":"27HJ...","name":"triton_poi_fused_5","device":0,"content_id":"9f86...",
                 "files":[{"name":"triton_poi_fused_5.cubin","size":13904,"sha256":"..."}]}],
     "payloads":[{"name":"fx_value.skeleton","size":2441504,"sha256":"..."}],
     "pack":{"size":1893221,"sha256":"..."},
     "compile_seconds":17.6,
     "signature":{"key_id":"...","ed25519":"..."}}

Small payloads may stand in the manifest itself, as text: `"inline":{"<payload name>":"<text>"}`; they are then in no
pack, and a bundle of nothing else has none (`"pack":null`). A bundle that holds a value of torch, cut into a skeleton
and kernels, says what the whole was: `"value":{"size":...,"sha256":"..."}`. The manifest is written as canonical JSON:
sorted keys, no spaces, optional fields left out. It holds the size and sha256 of every other object of the bundle, so
whoever trusts the manifest can check the rest.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tritonsync.errors import FormatError, ManifestError, NewerFormatError
from tritonsync.format.bundle import KINDS, Bundle, Digest, is_variant
from tritonsync.format.kernel import MAX_DEVICE, Kernel, content_id
from tritonsync.format.layout import BundlePlace, check_key, check_name, is_id, stored_key

__all__ = [
    "FORMAT",
    "MAX_CONTENT_BYTES",
    "MAX_GENERATION",
    "MAX_MANIFEST_BYTES",
    "MAX_RATIO",
    "Digest",
    "Environment",
    "FileEntry",
    "KernelEntry",
    "Manifest",
    "Signature",
    "check_readable",
    "decode",
    "describe",
    "encode",
    "signed_bytes",
    "time_ago",
]

FORMAT = 1
#: A variant whose bundles proved unusable is published anew this many times, then given up.
MAX_GENERATION = 3
#: A manifest of 100,000 files is about 15 MB; what is larger is not read.
MAX_MANIFEST_BYTES = 16 * 1024 * 1024

#: The content of a bundle, decompressed; the largest seen has 28 MB. What promises more is not believed.
MAX_CONTENT_BYTES = 2 * 1024**3
#: Content a byte of pack. Graphs of H200 and CPU programs have 5 to 15, 300 nearly equal builds of one kernel 420.
MAX_RATIO = 1000
#: What a pack of any size may hold.
_SMALL_CONTENT = 16 * 1024 * 1024

#: Characters of what a manifest says that a message shows: numbers, too, can have thousands.
_SHOWN = 300

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_ED25519 = re.compile(r"[A-Za-z0-9+/]{86}==")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a kernel, or a payload: its name, size in bytes, and sha256 (64 hex digits), in stored form."""

    name: str
    size: int
    sha256: str


class KernelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel of the bundle; `device` is null where kernels are not kept per device."""

    hash: str
    name: str
    device: int | None
    content_id: str
    files: tuple[FileEntry, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """An Ed25519 signature over the canonical JSON without `signature`; base64, and the id of the key."""

    key_id: str
    ed25519: str


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where a bundle was made: for people and for `show`; only `requires` decides anything.

    Attributes:
        requires: what the reader's CPU and rank must be (see `facts.py`); None for any.
    """

    tritonsync: str | None = None
    torch: str | None = None
    triton: str | None = None
    python: str | None = None
    cuda: str | None = None
    device: str | None = None
    target: str | None = None
    machine: str | None = None
    requires: str | None = None

    def stating(self, **facts: str | None) -> Environment:
        """Return the environment with these facts in place of what it states."""
        return msgspec.structs.replace(self, **facts)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A validated manifest; see the module's docstring for the fields."""

    format: int
    kind: str
    key: str
    variant: str
    generation: int
    guards: str
    created: str
    environment: Environment
    kernels: tuple[KernelEntry, ...]
    payloads: tuple[FileEntry, ...]
    pack: Digest | None
    compile_seconds: float
    value: Digest | None = None
    inline: dict[str, str] | None = None
    signature: Signature | None = None

    @property
    def bundle_id(self) -> str:
        """32 hex digits that name this bundle by its content: what a reader gets, not when or where it was made."""
        identity = [
            self.kind,
            self.key,
            self.variant,
            self.generation,
            [[kernel.hash, kernel.device, kernel.content_id] for kernel in self.kernels],
            [[payload.name, payload.sha256] for payload in self.payloads],
            self.pack.sha256 if self.pack else "",
            self.signature.key_id if self.signature else "",
        ]
        return hashlib.sha256(_canonical(identity)).hexdigest()[:32]

    @property
    def place(self) -> BundlePlace:
        """Where the bundle lies: its key's prefix, its variant, its id."""
        return BundlePlace(self.kind, stored_key(self.kind, self.key), self.variant, self.bundle_id)

    @property
    def content_size(self) -> int:
        """Bytes of all kernel files and payloads, decompressed."""
        return sum(kernel.size for kernel in self.kernels) + sum(payload.size for payload in self.payloads)

    def members(self) -> Iterator[tuple[str, FileEntry]]:
        """Yield (path inside the pack, entry) of all that does not stand inline, in the pack's order.

        Kernels with one hash and content under several devices stand in a pack once.
        """
        seen: set[str] = set()
        for kernel in self.kernels:
            for file in kernel.files:
                path = f"kernels/{kernel.hash}/{kernel.content_id}/{file.name}"
                if path not in seen:
                    seen.add(path)
                    yield path, file
        for payload in self.payloads:
            if payload.name not in (self.inline or ()):
                yield f"payloads/{payload.name}", payload


def time_ago(seconds: float) -> str:
    """Return the time of so many seconds ago as manifests state it; what is earlier sorts before it."""
    when = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=seconds)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def describe(
    bundle: Bundle,
    *,
    created: str,
    environment: Environment,
    pack: Digest | None,
    generation: int = 0,
    inline: frozenset[str] = frozenset(),
) -> Manifest:
    """Make the unsigned manifest of a bundle; the payloads named in `inline` must be UTF-8 text.

    Raises:
        FormatError: a reader would refuse it.
    """
    manifest = Manifest(
        format=FORMAT,
        kind=bundle.kind,
        key=bundle.key,
        variant=bundle.variant,
        generation=generation,
        guards=bundle.guards,
        created=created,
        environment=environment.stating(requires=bundle.requires),
        kernels=tuple(_kernel_entry(kernel) for kernel in bundle.kernels),
        payloads=tuple(FileEntry(name=p.name, size=p.size, sha256=p.sha256) for p in bundle.payloads),
        pack=pack,
        compile_seconds=round(float(bundle.compile_seconds), 3),
        value=bundle.value,
        inline={p.name: p.data.decode() for p in bundle.payloads if p.name in inline} or None,
    )
    _validate(manifest)
    return manifest


def encode(manifest: Manifest) -> bytes:
    """Write the manifest as canonical JSON."""
    return _canonical(_document(manifest))


def signed_bytes(manifest: Manifest) -> bytes:
    """Return the bytes that a signature covers: the canonical JSON without `signature`."""
    return _canonical(_document(msgspec.structs.replace(manifest, signature=None)))


def decode(data: bytes, name: str) -> Manifest:
    """Read and validate a manifest; `name` is the object it came from, for messages.

    Every name, size and order in it is checked, every content id is worked out again from the files, and it must stand
    there byte for byte as `encode` writes it: no field that this version does not know, none twice.

    Raises:
        NewerFormatError: it says a format above 1.
        ManifestError: anything else is wrong with it.
    """
    check_readable(data, name)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ManifestError(f"{name}: not a manifest: {str(exc)[:_SHOWN]}", object_name=name) from exc
    try:
        _validate(manifest)
    except FormatError as exc:
        raise ManifestError(f"{name}: {str(exc)[:_SHOWN]}", object_name=name) from exc
    if encode(manifest) != data:
        raise ManifestError(
            f"{name}: not written as canonical JSON, or with fields that format {FORMAT} does not have",
            object_name=name,
        )
    return manifest


class _Format(msgspec.Struct):
    format: int


def check_readable(data: bytes, name: str) -> None:
    """Check, at a few milliseconds for 10 MB, that these bytes may be a manifest of this format.

    Raises:
        NewerFormatError: it says a format above 1.
        ManifestError: it is too large, or no JSON object with a format.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"{name}: a manifest of {len(data)} bytes; {MAX_MANIFEST_BYTES} are allowed", object_name=name
        )
    try:
        stated = msgspec.json.decode(data, type=_Format).format
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ManifestError(f"{name}: not a manifest: {exc}", object_name=name) from exc
    if stated > FORMAT:
        raise NewerFormatError(
            f"{name}: format {str(stated)[:20]} is newer than {FORMAT}; upgrade tritonsync to read it", object_name=name
        )


def _validate(manifest: Manifest) -> None:
    if manifest.format != FORMAT:
        raise FormatError(f"format {manifest.format} does not exist")
    if not 0 <= manifest.generation <= MAX_GENERATION:
        raise FormatError(f"generation {manifest.generation} is not 0 to {MAX_GENERATION}")
    if manifest.kind not in KINDS:
        raise FormatError(f"kind {manifest.kind[:80]!r} does not exist")
    check_key(manifest.key)
    if not is_variant(manifest.kind, check_name(manifest.variant, "variant")):
        raise FormatError(f"variant {manifest.variant[:80]!r} is none of kind {manifest.kind}")
    if not _TIME.fullmatch(manifest.created):
        raise FormatError(f"created {manifest.created[:80]!r} is no time such as 2026-11-23T03:44:55Z")
    if not 0 <= manifest.compile_seconds < math.inf:
        raise FormatError(f"{manifest.compile_seconds} seconds of compilation cannot be")
    if manifest.pack is not None:
        _check_entry("pack", manifest.pack.size, manifest.pack.sha256)
    if manifest.value is not None:
        _check_entry("value", manifest.value.size, manifest.value.sha256)
    _check_order([_entry_order(kernel) for kernel in manifest.kernels], "kernel")
    for kernel in manifest.kernels:
        check_name(kernel.hash, "kernel hash")
        check_name(kernel.name, "kernel name")
        if kernel.device is not None and not 0 <= kernel.device <= MAX_DEVICE:
            raise FormatError(f"kernel {kernel.hash}: device {kernel.device} is not 0 to {MAX_DEVICE}")
        _check_files(kernel.files)
        if not is_id(kernel.content_id):
            raise FormatError(f"kernel {kernel.hash}: content id {kernel.content_id[:80]!r}")
        if content_id((file.name, file.size, file.sha256) for file in kernel.files) != kernel.content_id:
            raise FormatError(f"kernel {kernel.hash}: its files are not those of content id {kernel.content_id}")
    _check_files(manifest.payloads)
    if manifest.content_size > MAX_CONTENT_BYTES:
        raise FormatError(f"a bundle of {manifest.content_size} bytes; {MAX_CONTENT_BYTES} are allowed")
    if manifest.pack is not None and manifest.content_size > _SMALL_CONTENT + MAX_RATIO * manifest.pack.size:
        raise FormatError(
            f"{manifest.content_size} bytes in a pack of {manifest.pack.size}; {MAX_RATIO} times as many are allowed"
        )
    if manifest.inline is not None:
        stated = {payload.name: (payload.size, payload.sha256) for payload in manifest.payloads}
        for name, text in manifest.inline.items():
            if stated.get(name) != _measure(text):
                raise FormatError(f"the payload {name[:80]!r} that stands inline is not the one that is listed")
    signature = manifest.signature
    if signature and not (_KEY_ID.fullmatch(signature.key_id) and _ED25519.fullmatch(signature.ed25519)):
        raise FormatError("a signature that is not 16 hex digits and 64 bytes in base64")


def _entry_order(kernel: KernelEntry) -> tuple[str, int, str]:
    """The order of `Bundle.kernels`, see `kernel_order` there."""
    return (kernel.hash, -1 if kernel.device is None else kernel.device, kernel.content_id)


def _measure(text: str) -> tuple[int, str]:
    data = text.encode()
    return len(data), hashlib.sha256(data).hexdigest()


def _check_files(files: tuple[FileEntry, ...]) -> None:
    _check_order([file.name for file in files], "file")
    for file in files:
        check_name(file.name, "file name")
        _check_entry(file.name, file.size, file.sha256)


def _check_entry(what: str, size: int, sha256: str) -> None:
    if not 0 <= size <= MAX_CONTENT_BYTES or not _SHA256.fullmatch(sha256):
        raise FormatError(f"{what}: size {size} or sha256 {sha256[:80]!r} cannot be")


def _check_order(values: list[Any], what: str) -> None:
    if any(after <= before for before, after in itertools.pairwise(values)):
        raise FormatError(f"a {what} is listed twice, or not in order")


def _kernel_entry(kernel: Kernel) -> KernelEntry:
    return KernelEntry(
        hash=kernel.hash,
        name=kernel.name,
        device=kernel.device,
        content_id=kernel.content_id,
        files=tuple(FileEntry(name=f.name, size=f.size, sha256=f.sha256) for f in kernel.files),
    )


def _document(manifest: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(manifest)
    for optional in ("value", "inline", "signature"):
        if document[optional] is None:
            del document[optional]
    return document


def _canonical(value: object) -> bytes:
    # json, not msgspec: its number and escape rules are fixed by the standard library, and signatures cover the bytes.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
