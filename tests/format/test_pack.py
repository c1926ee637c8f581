import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.format.conftest import Describe
from tests.format.strategies import bundles
from tritonsync.errors import PackError
from tritonsync.format import manifest as manifests
from tritonsync.format import pack as packs
from tritonsync.format.bundle import Bundle, Digest, Payload
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.format.manifest import Environment, FileEntry, Manifest

MIB = 1024 * 1024

BUNDLE = Bundle(
    "fx_graph",
    "fkey",
    kernels=(
        Kernel("A", 0, (KernelFile("a.cubin", b"\x7fELF" * 300), KernelFile("a.json", b"{}"))),
        Kernel("B", None, (KernelFile("b" * 150 + ".cubin", b"3"), KernelFile("empty", b""))),
    ),
    payloads=(Payload("fx_value.skeleton", b"skeleton" * 100),),
    guards="s0 > 1",
    requires="x86_64:avx2",
    compile_seconds=2.5,
    value=Digest(size=3, sha256="c" * 64),
)


def _unpacked(pack: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(pack)


def _members(pack: bytes) -> dict[str, bytes]:
    """Path to content, as Python's own tar reader sees it."""
    with tarfile.open(fileobj=io.BytesIO(_unpacked(pack))) as reader:
        return {member.name: reader.extractfile(member).read() for member in reader}  # type: ignore[union-attr]


def _sealed(manifest: Manifest, pack: bytes) -> Manifest:
    """The manifest as an attacker would adjust it: it states size and sha256 of this pack."""
    return msgspec.structs.replace(manifest, pack=Digest(size=len(pack), sha256=hashlib.sha256(pack).hexdigest()))


@given(bundles)
def test_packs_give_back_the_bundle(describe: Describe, bundle: Bundle) -> None:
    """Every bundle comes back equal, through the pack and through single objects."""
    manifest, pack = describe(bundle)
    members = _members(pack)
    assert list(members) == [path for path, _ in manifest.members()]
    assert packs.assemble(manifest, members) == packs.decode(pack, manifest)
    rounded = dataclasses.replace(bundle, compile_seconds=round(bundle.compile_seconds, 3))
    assert packs.decode(pack, manifest) == rounded


@given(bundles.flatmap(lambda b: st.tuples(st.just(b), st.permutations(b.kernels), st.permutations(b.payloads))))
def test_packs_are_the_same_on_every_run(both: tuple[Bundle, list[Kernel], list[Payload]]) -> None:
    """The order in which kernels, files and payloads are given leaves no trace in the bytes."""
    bundle, kernels, payloads = both
    turned = [Kernel(kernel.hash, kernel.device, kernel.files[::-1]) for kernel in kernels]
    shuffled = dataclasses.replace(bundle, kernels=tuple(turned), payloads=tuple(payloads))
    assert packs.encode(shuffled) == packs.encode(bundle)


def test_a_real_bundle_comes_back_equal(describe: Describe, vit_kernels: dict[str, Kernel], vit_fx: bytes) -> None:
    """Real kernels come back equal, their digests known, from a pack that any tar reads."""
    bundle = Bundle("fx_graph", "f" * 52, kernels=tuple(vit_kernels.values()), payloads=(Payload("value", vit_fx),))
    manifest, pack = describe(bundle)
    loaded = packs.decode(pack, manifest)
    assert loaded == bundle
    assert all("sha256" in vars(file) for kernel in loaded.kernels for file in kernel.files)
    assert all("sha256" in vars(payload) for payload in loaded.payloads)
    assert _members(pack)["payloads/value"] == vit_fx


def test_a_kernel_under_two_devices_is_packed_once(describe: Describe) -> None:
    """Two devices with one content share the bytes, in the pack and in memory."""
    files = BUNDLE.kernels[0].files
    manifest, pack = describe(Bundle("triton", "A", kernels=(Kernel("A", 0, files), Kernel("A", 1, files))))
    assert len(_members(pack)) == len(files)
    first, second = packs.decode(pack, manifest).kernels
    assert (first.device, second.device) == (0, 1)
    assert first.files[0].payload is second.files[0].payload


def test_inline_payloads_come_from_the_manifest() -> None:
    """A payload that stands in the manifest is in no pack, and in the bundle all the same."""
    pack = packs.encode(dataclasses.replace(BUNDLE, payloads=()))
    bundle = dataclasses.replace(BUNDLE, payloads=(Payload("note", b"text"),))
    inline = frozenset({"note"})
    manifest = manifests.describe(
        bundle, created="2026-11-23T03:44:55Z", environment=Environment(), pack=None, inline=inline
    )
    assert packs.decode(pack, _sealed(manifest, pack)) == bundle
    assert packs.assemble(manifest, _members(pack)) == bundle
    lying = msgspec.structs.replace(_sealed(manifest, pack), inline={"note": "lie"})
    with pytest.raises(PackError, match="note"):
        packs.decode(pack, lying)


def test_damaged_packs_are_refused(describe: Describe) -> None:
    """A cut, a padded and a flipped pack are not the one that the manifest names; a bundle may have none."""
    manifest, pack = describe(BUNDLE)
    flipped = bytes([*pack[:-1], pack[-1] ^ 1])
    for damaged in (b"", pack[:-1], pack + b"\0", flipped):
        with pytest.raises(PackError, match="of its manifest"):
            packs.decode(damaged, manifest)
    with pytest.raises(PackError, match="no pack"):
        packs.decode(pack, msgspec.structs.replace(manifest, pack=None))


@given(st.data())
def test_flipped_and_cut_packs_never_give_other_content(describe: Describe, data: st.DataObject) -> None:
    """Even where the manifest was adjusted to a damaged pack, it is refused or gives the right bundle."""
    manifest, pack = describe(BUNDLE)
    position = data.draw(st.integers(0, len(pack) - 1))
    flipped = bytearray(pack)
    flipped[position] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), pack[:position]):
        with contextlib.suppress(PackError):
            assert packs.decode(damaged, _sealed(manifest, damaged)) == BUNDLE


@pytest.mark.parametrize(
    "trail",
    [
        b"\0",
        b"x" * 1000,
        zstandard.compress(b""),
        zstandard.compress(b"more"),
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip",
    ],
    ids=["a zero", "text", "an empty frame", "a frame", "a skippable frame"],
)
def test_data_after_the_frame_is_refused(describe: Describe, trail: bytes) -> None:
    """Nothing follows the one frame, whatever a zstd reader would skip or append."""
    manifest, pack = describe(BUNDLE)
    padded = pack + trail
    with pytest.raises(PackError, match="frame has"):
        packs.decode(padded, _sealed(manifest, padded))


def _rebuilt(members: list[tarfile.TarInfo], contents: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as writer:
        for member, content in zip(members, contents, strict=True):
            writer.addfile(member, io.BytesIO(content))
    return zstandard.compress(buffer.getvalue())


def _file(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def _tampered(members: dict[str, bytes]) -> Iterator[tuple[str, list[tarfile.TarInfo], list[bytes]]]:
    infos, contents = [_file(name, len(data)) for name, data in members.items()], list(members.values())
    yield "missing", infos[1:], contents[1:]
    yield "additional", [*infos, _file("payloads/extra", 2)], [*contents, b"xx"]
    yield "repeated", [*infos, infos[0]], [*contents, contents[0]]
    yield "out of order", infos[::-1], contents[::-1]
    yield "renamed", [_file("payloads/../../x", infos[0].size), *infos[1:]], contents
    link = tarfile.TarInfo(infos[0].name)
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    yield "a link", [link, *infos[1:]], [b"", *contents[1:]]
    folder = tarfile.TarInfo("kernels")
    folder.type = tarfile.DIRTYPE
    yield "a folder", [folder, *infos], [b"", *contents]
    yield "longer", [_file(infos[0].name, infos[0].size + 1), *infos[1:]], [contents[0] + b"x", *contents[1:]]
    yield "other bytes", infos, [bytes(len(contents[0])), *contents[1:]]


def test_other_members_are_refused(describe: Describe) -> None:
    """A pack whose manifest was adjusted still has to hold exactly the manifest's files, in order."""
    manifest, pack = describe(BUNDLE)
    for what, infos, contents in _tampered(_members(pack)):
        rebuilt = _rebuilt(infos, contents)
        with pytest.raises(PackError):
            pytest.fail(f"{what}: {packs.decode(rebuilt, _sealed(manifest, rebuilt))}")


def _compress(content: bytes, **parameters: int) -> bytes:
    chosen = zstandard.ZstdCompressionParameters.from_level(3, write_content_size=True, **parameters)
    return zstandard.ZstdCompressor(compression_params=chosen).compress(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda tar: tar + bytes(512),  # padded after the end of the archive
        lambda tar: tar[:-512],  # one block of zeros at the end
        lambda tar: tar[:-1] + b"x",  # no end of the archive
        lambda tar: tar.replace(b"0000644", b"0000755", 1),
        lambda tar: tar.replace(b"{}" + bytes(510), b"{}x" + bytes(509), 1),  # bytes in the padding of a file
        lambda tar: tar.replace(b"ELF", b"FLE", 1),
    ],
)
def test_other_archives_of_the_right_files_are_refused(describe: Describe, change: Callable[[bytes], bytes]) -> None:
    """Headers, padding and end of the archive have one form."""
    manifest, pack = describe(BUNDLE)
    archive = _unpacked(pack)
    changed = change(archive)
    assert changed != archive
    damaged = _compress(changed)
    with pytest.raises(PackError):
        packs.decode(damaged, _sealed(manifest, damaged))
    other_level = _compress(archive, window_log=17)
    assert packs.decode(other_level, _sealed(manifest, other_level)) == BUNDLE


def _peak(action: Callable[[], object]) -> int:
    """Bytes of memory that Python had at most during an action that fails."""
    tracemalloc.start()
    try:
        with pytest.raises(PackError):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_refused_before_memory_is_spent(describe: Describe) -> None:
    """256 MiB of zeros in 8 KB are refused by the size the frame states, or, where it lies, by the first bytes."""
    manifest, _ = describe(BUNDLE)
    bomb = _compress(bytes(256 * MIB))
    assert len(bomb) < MIB
    assert _peak(lambda: packs.decode(bomb, _sealed(manifest, bomb))) < MIB
    with pytest.raises(PackError, match=f"unfolds to {256 * MIB} bytes"):
        packs.decode(bomb, _sealed(manifest, bomb))

    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(256 * MIB))
    assert _peak(lambda: packs.decode(silent, _sealed(manifest, silent))) < MIB

    archive = _unpacked(describe(BUNDLE)[1])
    for content in (bytes(256 * MIB), archive + bytes(256 * MIB)):
        # The frame's header: magic, descriptor, window, and four bytes of content size (RFC 8878, 3.1.1.1).
        packed = _compress(content)
        lying = packed[:6] + len(archive).to_bytes(4, "little") + packed[10:]
        assert zstandard.get_frame_parameters(lying).content_size == len(archive)
        assert _peak(functools.partial(packs.decode, lying, _sealed(manifest, lying))) < MIB


def test_a_window_above_8_mib_is_refused(describe: Describe) -> None:
    """A frame cannot ask for more memory than the format allows to a window."""
    data = bytes(range(256)) * 128 + os.urandom(64 * 1024) + bytes(32 * MIB)
    manifest, _ = describe(Bundle("pgo", "k", payloads=(Payload("p", data),)))
    wide = _compress(_unpacked(packs.encode(Bundle("pgo", "k", payloads=(Payload("p", data),)))), window_log=24)
    with pytest.raises(PackError, match="window"):
        packs.decode(wide, _sealed(manifest, wide))


def test_unpacking_can_be_given_up_between_two_files(describe: Describe) -> None:
    """What is called before each file may raise; the files before it were read."""
    manifest, pack = describe(BUNDLE)
    calls = []

    def give_up() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        packs.decode(pack, manifest, give_up)
    assert packs.decode(pack, manifest, lambda: None) == BUNDLE


def test_a_load_holds_the_content_once(describe: Describe) -> None:
    """Decoding needs little more memory than the content has bytes."""
    payloads = tuple(Payload(f"p{i}", bytes([i]) * MIB) for i in range(16))
    manifest, pack = describe(Bundle("pgo", "k", payloads=payloads))
    tracemalloc.start()
    loaded = packs.decode(pack, manifest)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(loaded.payloads) == 16
    assert peak < 1.2 * manifest.content_size


def test_single_objects_must_be_exactly_the_manifests(describe: Describe) -> None:
    """A missing, an additional and a changed file are each named."""
    manifest, pack = describe(BUNDLE)
    members = _members(pack)
    path = "payloads/fx_value.skeleton"
    changed = [
        ({name: data for name, data in members.items() if name != path}, f"{path} is missing"),
        ({**members, "payloads/x": b""}, "payloads/x is not in the manifest"),
        ({**members, path: bytes(800)}, path),
        ({**members, path: members[path] + b"x"}, path),
    ]
    for objects, message in changed:
        with pytest.raises(PackError, match=message):
            packs.assemble(manifest, objects)
    assert packs.assemble(manifest, members) == BUNDLE


def test_a_manifest_that_contradicts_itself_is_a_pack_error(describe: Describe) -> None:
    """A manifest made by hand, which `decode` never saw, cannot make a wrong bundle or another error."""
    manifest, pack = describe(BUNDLE)
    members = _members(pack)
    kernel = msgspec.structs.replace(manifest.kernels[0], content_id="0" * 32)
    with pytest.raises(PackError):
        packs.assemble(msgspec.structs.replace(manifest, kernels=(kernel,), payloads=()), {})
    moved = {
        path.replace(manifest.kernels[0].content_id, "0" * 32): data
        for path, data in members.items()
        if path.startswith("kernels/A/")
    }
    with pytest.raises(PackError, match="content id"):
        packs.assemble(msgspec.structs.replace(manifest, kernels=(kernel,), payloads=()), moved)
    entry = FileEntry(name="../x", size=1, sha256=hashlib.sha256(b"x").hexdigest())
    with pytest.raises(PackError, match="no bundle"):
        packs.assemble(msgspec.structs.replace(manifest, kernels=(), payloads=(entry,)), {"payloads/../x": b"x"})
