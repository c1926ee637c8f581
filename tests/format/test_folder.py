"""What a bucket holds of a cache folder: a list that says where each file belongs, and where it fits."""

from __future__ import annotations

import hashlib

import pytest

from tests.folders import document
from tritonsync.errors import FormatError, HostileNameError
from tritonsync.format import folder
from tritonsync.format import manifest as manifests
from tritonsync.format.bundle import FOLDER, Bundle, Digest, Payload
from tritonsync.format.folder import (
    LIST,
    FolderFile,
    bundle_of_folder,
    difference,
    files_of_bundle,
    key_of,
    list_of_manifest,
)
from tritonsync.format.manifest import Environment, Manifest

FACTS = {"gpu": "NVIDIA H200", "nvcc": "13.0.88"}
FILES = (FolderFile("cache/a/kernel.cubin", b"one"), FolderFile("cache/b/kernel.cubin", b"one"), FolderFile("x", b""))


def manifest_of(bundle: Bundle) -> Manifest:
    return manifests.describe(
        bundle,
        created="2026-11-23T15:25:41Z",
        environment=Environment(),
        pack=Digest(size=1000, sha256="0" * 64),
        inline=frozenset({LIST}),
    )


def listing(*paths: str, name: str = "helion", key: str | None = None, **facts: str) -> Manifest:
    """Return a manifest whose list names these paths, each of the same file, as anybody can write it."""
    data = b"data"
    digest = hashlib.sha256(data).hexdigest()
    listed = document([(path, digest) for path in paths], name, **facts)
    payloads = (Payload(LIST, listed.encode()), Payload(digest, data))
    return manifest_of(Bundle(kind=FOLDER, key=key or key_of(name, facts), payloads=payloads))


def test_a_folder_comes_back() -> None:
    """Each file at its path, and what is equal once."""
    bundle = bundle_of_folder("deepgemm", FACTS, FILES)
    assert len(bundle.payloads) == 3
    manifest = manifests.decode(manifests.encode(manifest_of(bundle)), "m")
    listed = list_of_manifest(manifest)
    assert files_of_bundle(bundle, listed) == FILES
    assert (listed.name, listed.facts) == ("deepgemm", FACTS)


def test_the_key_holds_every_fact() -> None:
    """In any order; another name, another fact, or one more is another key."""
    key = key_of("deepgemm", FACTS)
    assert key_of("deepgemm", dict(reversed(FACTS.items()))) == key
    others = [key_of("tilelang", FACTS), key_of("deepgemm", {**FACTS, "gpu": "NVIDIA H100"}), key_of("deepgemm", {})]
    assert len({key, *others, key_of("deepgemm", {**FACTS, "rank": "rank 1 of 2"})}) == 5
    assert difference(FACTS, {**FACTS, "gpu": "NVIDIA H100"}) == ("gpu NVIDIA H200 -> NVIDIA H100",)
    assert difference({}, {"nvcc": "12.9"}) == ("nvcc not stated -> 12.9",)


@pytest.mark.parametrize(
    "path",
    [
        "../x", "a/../x", "..", ".", "a/.", "/etc/passwd", "a//b", "a/", "", "a\\b", "a\0b", "a b", "a\nb", "C:x", "ä",
        "/".join("abcdefghi"), "a" * 256, "/".join(["a" * 200] * 3),
    ],
)  # fmt: skip
def test_hostile_names_are_refused(path: str) -> None:
    """On both sides."""
    with pytest.raises(HostileNameError):
        bundle_of_folder("helion", {}, [FolderFile(path, b"data")])
    with pytest.raises(HostileNameError):
        list_of_manifest(listing(path))


@pytest.mark.parametrize("paths", [("b", "a"), ("a", "a"), ("A", "a"), ("a", "a/b"), ("A/x", "a/y"), ("A", "a/b"), ()])
def test_files_that_cannot_stand_side_by_side_are_refused(paths: tuple[str, ...]) -> None:
    """Repeated, out of order, one by another's name on some file systems, a file and a folder, none at all."""
    with pytest.raises(FormatError):
        list_of_manifest(listing(*paths))


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In files, in bytes, each counted where it would be written, and in names; on both sides."""
    monkeypatch.setattr(folder, "MAX_FILES", 2)
    with pytest.raises(FormatError, match="3 files"):
        bundle_of_folder("helion", {}, FILES)
    with pytest.raises(FormatError, match="3 files"):
        list_of_manifest(listing("a", "b", "c"))
    monkeypatch.undo()
    monkeypatch.setattr(folder, "MAX_BYTES", 5)
    with pytest.raises(FormatError, match="more than 5 bytes"):
        bundle_of_folder("helion", {}, [FolderFile("a", b"same"), FolderFile("b", b"same")])
    with pytest.raises(FormatError, match="more than 5 bytes"):
        list_of_manifest(listing("a", "b"))
    monkeypatch.undo()
    monkeypatch.setattr(folder, "_MAX_LIST", 100)
    with pytest.raises(FormatError, match="100 of names"):
        bundle_of_folder("helion", FACTS, FILES)


@pytest.mark.parametrize("facts", [{"a b": "x"}, {"a": "x\ny"}, {"a": "x" * 301}, {f"f{n}": "" for n in range(33)}])
def test_facts_are_short_lines(facts: dict[str, str]) -> None:
    """They are shown to people."""
    with pytest.raises(FormatError):
        key_of("helion", facts)


def test_a_list_that_is_not_of_its_bundle_is_refused() -> None:
    """Of another key, without its payloads, with others, written in another way, or none."""
    with pytest.raises(FormatError, match="another key"):
        list_of_manifest(listing("a", gpu="here", key=key_of("helion", {"gpu": "there"})))
    good = bundle_of_folder("helion", {}, [FolderFile("a", b"data")])
    text = good.payload(LIST) or b""
    data = next(payload for payload in good.payloads if payload.name != LIST)
    for payloads in (
        (Payload(LIST, text),),
        (Payload(LIST, text), data, Payload("b" * 64, b"more")),
        (Payload(LIST, text), Payload(data.name, b"other")),
        (Payload(LIST, text.replace(b'{"facts"', b'{ "facts"')), data),
        (Payload(LIST, text.replace(b'{"facts"', b'{"extra":1,"facts"')), data),
        (Payload(LIST, b"[" * 10_000), data),
    ):
        with pytest.raises(FormatError):
            list_of_manifest(manifest_of(Bundle(kind=FOLDER, key=good.key, payloads=payloads)))
