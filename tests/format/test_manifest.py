import base64
import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.conftest import Describe
from tests.format.strategies import bundles
from tritonsync.errors import FormatError, ManifestError, NewerFormatError
from tritonsync.format import manifest as manifests
from tritonsync.format.bundle import Bundle, Digest, Payload
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.format.manifest import Environment, Manifest, Signature

CREATED = "2026-11-23T03:44:55Z"
DIGEST = Digest(size=10, sha256="a" * 64)
BUNDLE = Bundle(
    "fx_graph",
    "fkey",
    kernels=(
        Kernel("A", 0, (KernelFile("a.cubin", b"12"), KernelFile("a.json", b"{}"))),
        Kernel("A", 1, (KernelFile("a.cubin", b"12"), KernelFile("a.json", b"{}"))),
        Kernel("B", None, (KernelFile("b.cubin", b"3"),)),
    ),
    payloads=(Payload("fx_value.skeleton", b"skeleton"), Payload("note", b"text")),
    guards="s0 > 1",
    compile_seconds=1.5,
    value=DIGEST,
)


def _describe(bundle: Bundle = BUNDLE, **fields: Any) -> Manifest:
    return manifests.describe(
        bundle, **{"created": CREATED, "environment": Environment(torch="2.13.0"), "pack": DIGEST, **fields}
    )


MANIFEST = _describe()


def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(manifests.encode(MANIFEST))
    return document


def _bytes(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@given(bundles, st.integers(0, 3), st.booleans())
def test_manifests_survive_the_way_through_the_bucket(bundle: Bundle, generation: int, packed: bool) -> None:
    """What is written is read as the same value, under the same id."""
    made = _describe(bundle, generation=generation, pack=DIGEST if packed else None)
    data = manifests.encode(made)
    read = manifests.decode(data, "m")
    assert read == made
    assert read.bundle_id == made.bundle_id
    assert manifests.encode(read) == data


def test_the_bundle_id_names_what_a_reader_gets() -> None:
    """Content, generation, pack and key make the id; time and place of making do not."""
    other = Bundle("fx_graph", "fkey", kernels=BUNDLE.kernels[:2], payloads=BUNDLE.payloads, guards="s0 > 1")
    signature = Signature(key_id="0" * 16, ed25519=base64.b64encode(bytes(64)).decode())
    different = [
        MANIFEST,
        _describe(other),
        _describe(generation=1),
        _describe(pack=None),
        _describe(pack=Digest(size=10, sha256="b" * 64)),
        msgspec.structs.replace(MANIFEST, signature=signature),
        msgspec.structs.replace(MANIFEST, variant="other"),
        msgspec.structs.replace(MANIFEST, key="other"),
    ]
    assert len({made.bundle_id for made in different}) == len(different)
    same = _describe(created="2027-01-01T00:00:00Z", environment=Environment())
    assert same.bundle_id == MANIFEST.bundle_id == MANIFEST.bundle_id.lower()
    assert len(MANIFEST.bundle_id) == 32


def test_members_stand_once_and_in_order() -> None:
    """A kernel under two devices is one folder of the pack; an inline payload is in no pack."""
    paths = [path for path, _ in MANIFEST.members()]
    a, b = BUNDLE.kernels[0].content_id, BUNDLE.kernels[2].content_id
    assert paths == [
        f"kernels/A/{a}/a.cubin",
        f"kernels/A/{a}/a.json",
        f"kernels/B/{b}/b.cubin",
        "payloads/fx_value.skeleton",
        "payloads/note",
    ]
    inline = _describe(inline=frozenset({"note"}))
    assert [path for path, _ in inline.members()] == paths[:-1]
    assert manifests.decode(manifests.encode(inline), "m") == inline


HUGE = 10**30


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 0),
        (["format"], True),
        (["format"], "1"),
        (["format"], None),
        (["kind"], "other"),
        (["key"], ""),
        (["key"], "k" * 1025),
        (["key"], 7),
        (["variant"], "../x"),
        (["variant"], ""),
        (["generation"], 4),
        (["generation"], -1),
        (["generation"], True),
        (["generation"], 0.0),
        (["guards"], None),
        (["created"], "yesterday"),
        (["created"], "2026-11-23T03:44:55"),
        (["compile_seconds"], -1.0),
        (["compile_seconds"], 1),
        (["compile_seconds"], False),
        (["environment"], []),
        (["environment", "torch"], 2.13),
        (["kernels"], {}),
        (["kernels", 0, "hash"], ".."),
        (["kernels", 0, "name"], "\x1b[31m"),
        (["kernels", 0, "device"], -1),
        (["kernels", 0, "device"], HUGE),
        (["kernels", 0, "device"], False),
        (["kernels", 0, "content_id"], "0" * 32),
        (["kernels", 0, "content_id"], "../../../x"),
        (["kernels", 0, "files", 0, "name"], "a/b"),
        (["kernels", 0, "files", 0, "size"], 3),
        (["kernels", 0, "files", 0, "size"], True),
        (["kernels", 0, "files", 0, "size"], 2.0),
        (["kernels", 0, "files", 0, "sha256"], "0" * 64),
        (["payloads", 0, "name"], "../x"),
        (["payloads", 0, "size"], -1),
        (["payloads", 0, "size"], HUGE),
        (["payloads", 0, "size"], manifests.MAX_CONTENT_BYTES),
        (["payloads", 0, "sha256"], "A" * 64),
        (["payloads", 0, "sha256"], "0" * 63),
        (["pack", "size"], -1),
        (["pack", "size"], None),
        (["pack", "sha256"], ""),
        (["value", "size"], HUGE),
        (["value"], None),
        (["inline"], None),
        (["inline"], {"note": "other"}),
        (["inline"], {"unknown": "text"}),
        (["signature"], None),
        (["signature"], {"key_id": "x", "ed25519": ""}),
        (["signature"], {"key_id": "0" * 16, "ed25519": "AA=="}),
        (["unknown"], 1),
        (["kernels", 0, "unknown"], 1),
        (["environment", "unknown"], 1),
    ],
)
def test_whatever_a_writer_would_not_write_is_refused(path: list[Any], value: object) -> None:
    """Wrong types, names, sizes, digests and fields are ManifestErrors that name the object."""
    document = _document()
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ManifestError, match=r"bundles/x/manifest\.json: "):
        manifests.decode(_bytes(document), "bundles/x/manifest.json")


@pytest.mark.parametrize("field", sorted(_document().keys() - {"value"}))
def test_missing_fields_are_refused(field: str) -> None:
    """No field has a default when reading."""
    document = _document()
    del document[field]
    with pytest.raises(ManifestError):
        manifests.decode(_bytes(document), "m")


@pytest.mark.parametrize("what", ["kernels", "payloads"])
def test_order_and_repeats_are_refused(what: str) -> None:
    """Kernels, files and payloads stand in one order, each once."""
    for entries in (_document()[what][::-1], _document()[what][:1] * 2):
        with pytest.raises(ManifestError, match="twice, or not in order"):
            manifests.decode(_bytes({**_document(), what: entries}), "m")


def test_other_spellings_are_refused() -> None:
    """One manifest has one spelling: spaces, order, escapes, repeated fields and numbers cannot vary."""
    data = manifests.encode(MANIFEST)
    text = data.decode()
    for other in (
        text + " ",
        text.replace(":", ": "),
        json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
        text.replace('"fkey"', '"\\u0066key"'),
        text.replace('"generation":0', '"generation":0,"generation":0'),
        text.replace('"generation":0', '"generation":-0'),
        text.replace("1.5", "1.50"),
        text.replace("1.5", "15e-1"),
        text.replace("1.5", "NaN"),
        text.replace("1.5", "1e999"),
        text.replace("1.5", "Infinity"),
        text.replace('"fkey"', '"\\ud800"'),
        text.replace('"fkey"', '"f\u0000key"'),
        text.replace('"generation":0', f'"generation":{"9" * 5000}'),
        "\ufeff" + text,
    ):
        assert other != text
        with pytest.raises(ManifestError):
            manifests.decode(other.encode(), "m")


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b"1", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 9999]
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    """Neither other JSON nor other bytes get through as anything but a ManifestError."""
    with pytest.raises(ManifestError):
        manifests.decode(data, "m")


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    """Bytes of any kind give a ManifestError, nothing else."""
    with pytest.raises(ManifestError):
        manifests.decode(data, "m")


@given(st.data())
def test_flipped_and_cut_manifests_never_pass_for_the_original(data: st.DataObject) -> None:
    """A flipped byte is refused or gives another manifest with another content; a cut is refused."""
    encoded = manifests.encode(MANIFEST)
    position = data.draw(st.integers(0, len(encoded) - 1))
    flipped = bytearray(encoded)
    flipped[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ManifestError):
        assert manifests.decode(bytes(flipped), "m") != MANIFEST
    with pytest.raises(ManifestError):
        manifests.decode(encoded[:position], "m")


def test_newer_formats_are_told_apart() -> None:
    """A newer format is said to be one, even if nothing else in it is known."""
    with pytest.raises(NewerFormatError, match="format 2 is newer"):
        manifests.decode(b'{"format":2,"everything":"else"}', "m")
    with pytest.raises(NewerFormatError):
        manifests.decode(_bytes({**_document(), "format": HUGE}), "m")


def test_too_long_a_manifest_is_not_parsed() -> None:
    """What is larger than any manifest can be is refused by its size."""
    with pytest.raises(ManifestError, match="are allowed"):
        manifests.decode(bytes(manifests.MAX_MANIFEST_BYTES + 1), "m")


def test_a_writer_makes_nothing_that_a_reader_refuses() -> None:
    """Describing fails where reading would."""
    with pytest.raises(FormatError, match="created"):
        _describe(created="now")
    with pytest.raises(FormatError, match="generation"):
        _describe(generation=4)
    assert _describe(Bundle("pgo", "k", compile_seconds=2)).compile_seconds == 2.0


def test_a_real_bundle_is_described(describe: Describe, vit_kernels: dict[str, Kernel]) -> None:
    """The manifest of a real cache's kernels is read as it was written."""
    made, _ = describe(Bundle("fx_graph", "f" * 52, kernels=tuple(vit_kernels.values())))
    assert manifests.decode(manifests.encode(made), "m") == made
    assert made.content_size == sum(kernel.size for kernel in vit_kernels.values())
    assert {kernel.name for kernel in made.kernels} == {kernel.name for kernel in vit_kernels.values()}
    assert all(kernel.name.startswith("triton_") for kernel in made.kernels)
