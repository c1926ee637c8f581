from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.bundles import make_bundle, make_kernel
from tests.keys import make_key
from tests.raw import RawBucket
from tritonsync.errors import TritonSyncError
from tritonsync.format.bundle import Bundle
from tritonsync.format.manifest import MAX_MANIFEST_BYTES
from tritonsync.format.signing import Signer, TrustPolicy
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_workload
from tritonsync.store.catalog import Catalog
from tritonsync.store.verify import Verified, verify

DAMAGES = ["flip", "truncate", "pad", "empty"]


@pytest.fixture
def folder(tmp_path: Path) -> RawBucket:
    return RawBucket(str(tmp_path / "bucket"))


def save(raw: RawBucket, *bundles: Bundle, signer: Signer | None = None) -> None:
    store = raw.store(signer=signer)
    for bundle in bundles:
        if bundle.kind == "workload":
            store.complete(store.publish_newest(bundle, inline=(LIST,)))
        else:
            store.complete(store.publish(bundle, reread=True))


def check(
    raw: RawBucket, name: str | None = None, *, trust: TrustPolicy | None = None, delete_bad: bool = False
) -> Verified:
    return verify(Catalog(raw.bucket(), trust=trust), name, delete_bad=delete_bad)


def names(problems: tuple[object, ...]) -> list[str]:
    return [problem.name for problem in problems]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["folder", "s3_place", "gcs_place"])
def test_everything_is_read(kind: str, request: pytest.FixtureRequest) -> None:
    """Every object but the format object is read once, also kernel folders that two bundles share."""
    place = request.getfixturevalue(kind)
    raw = place if isinstance(place, RawBucket) else RawBucket(place.url, place.options)
    save(raw, make_bundle("one"), make_bundle("two"))
    found = check(raw)
    assert (found.bad, found.incomplete, found.newer, found.leftovers) == ((), (), (), ())
    objects = raw.contents("^(bundles|kernels)/")
    assert (found.bundles, found.objects, found.bytes) == (2, len(objects), sum(map(len, objects.values())))
    raw.__exit__()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", ["cubin", "payloads/", "pack", "manifest"])
def test_a_damaged_object_is_named(folder: RawBucket, pattern: str, damage: str) -> None:
    """One object is bad, and it is this one; bundles that do not use it are good."""
    save(folder, make_bundle("one", kernels=1))
    name = folder.only(pattern)
    save(folder, make_bundle("two", kernels=0))
    folder.damage(name, damage)
    found = check(folder)
    assert names(found.bad) == [name]
    assert names(check(folder, "one").bad) == [name]
    assert check(folder, "two").bad == ()


@pytest.mark.parametrize(("pattern", "named"), [("cubin", "bundle"), ("payloads/", "bundle"), ("pack", "object")])
def test_what_another_object_makes_up_for_is_incomplete(folder: RawBucket, pattern: str, named: str) -> None:
    """A missing pack, payload or kernel file is no failure while the bundle loads."""
    save(folder, make_bundle("one", kernels=1))
    name = folder.only(pattern)
    bundle = folder.only("manifest").removesuffix("manifest.json")
    folder.damage(name, "delete")
    found = check(folder)
    assert found.bad == ()
    assert names(found.incomplete) == [bundle if named == "bundle" else name]


@pytest.mark.parametrize("damage", [*DAMAGES, "delete"])
def test_a_bundle_that_nothing_can_load_is_bad(folder: RawBucket, damage: str) -> None:
    """Neither its pack nor its single objects are whole."""
    save(folder, make_bundle("one", kernels=2))
    folder.damage(folder.only("pack"), "delete")
    folder.damage(folder.names("cubin")[0], damage)
    assert folder.only("manifest").removesuffix("manifest.json") in names(check(folder).bad)


def test_a_manifest_in_the_place_of_another_is_bad(folder: RawBucket) -> None:
    """Its content is right, its name is not."""
    save(folder, make_bundle("one"))
    name = folder.only("manifest")
    Path(folder.url, name.replace("/one/", "/two/")).parent.mkdir(parents=True)
    folder.write(name.replace("/one/", "/two/"), folder.read(name))
    assert names(check(folder).bad) == [name.replace("/one/", "/two/")]


def test_a_manifest_that_is_too_large_is_not_read(folder: RawBucket) -> None:
    """Its size in the listing is enough."""
    save(folder, make_bundle("one"))
    name = folder.only("manifest")
    with Path(folder.url, name).open("r+b") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    found = check(folder)
    assert names(found.bad) == [name]
    assert found.bytes < MAX_MANIFEST_BYTES


def test_a_newer_format_is_left_alone(folder: RawBucket) -> None:
    """It is reported, it is no failure, and it is never removed."""
    save(folder, make_bundle("one"))
    name = folder.only("manifest")
    folder.write(name, json.dumps({**json.loads(folder.read(name)), "format": 2}).encode())
    before = folder.contents()
    found = check(folder, delete_bad=True)
    assert (found.bad, names(found.newer), found.removed) == ((), [name], ())
    assert folder.contents() == before


def test_only_trusted_signatures_count(folder: RawBucket) -> None:
    """Without trusted keys everything is good; with them, what nobody trusted has signed is untrusted, and stays."""
    ours, theirs = make_key(), make_key()
    save(folder, make_bundle("ours"), signer=Signer.from_pem(ours.private))
    save(folder, make_bundle("theirs"), signer=Signer.from_pem(theirs.private))
    save(folder, make_bundle("nobody's"))
    assert check(folder).bad == ()
    before = folder.contents()
    found = check(folder, trust=TrustPolicy.from_pems([ours.public]), delete_bad=True)
    assert (found.bad, found.incomplete, found.leftovers, found.removed) == ((), (), (), ())
    assert len(found.untrusted) == 2
    assert "not trusted" in " ".join(problem.what for problem in found.untrusted)
    assert not any("/ours/" in name for name in names(found.untrusted))
    assert folder.contents() == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_bad_whoever_is_trusted(folder: RawBucket, damage: str) -> None:
    """Damage is told from a signature that is not trusted, and can be removed."""
    ours = make_key()
    trust = TrustPolicy.from_pems([ours.public])
    save(folder, make_bundle("ours"), signer=Signer.from_pem(ours.private))
    save(folder, make_bundle("nobody's"))
    broken = folder.names("manifest")
    for name in broken:
        folder.damage(name, damage)
    found = check(folder, trust=trust, delete_bad=True)
    assert (sorted(names(found.bad)), found.untrusted) == (sorted(broken), ())
    assert folder.names("^bundles/") == []


def test_a_manifest_that_was_changed_after_it_was_signed_stays(folder: RawBucket) -> None:
    """It is intact, and who trusts another key, or signs for another place, may have made it so."""
    ours = make_key()
    save(folder, make_bundle("ours"), signer=Signer.from_pem(ours.private))
    name = folder.only("manifest")
    folder.write(name, folder.read(name).replace(b'"compile_seconds":0.0', b'"compile_seconds":9.0'))
    found = check(folder, trust=TrustPolicy.from_pems([ours.public]), delete_bad=True)
    assert (found.bad, names(found.untrusted), found.removed) == ((), [name], ())


def test_a_workload_is_verified_with_all_that_it_lists(folder: RawBucket) -> None:
    """Damage in a listed bundle is damage of the workload; a listed bundle that is missing makes it incomplete."""
    entries = tuple(WorkloadEntry(kind="fx_graph", key=key, variant="default") for key in ("one", "two"))
    save(folder, make_bundle("one"), make_bundle("other"))
    save(folder, bundle_of_workload("run", Workload(inductor_dir="/cache", entries=entries), (make_kernel(9),)))
    found = check(folder, "run")
    assert (found.bundles, found.bad) == (2, ())
    assert names(found.incomplete) == names(check(folder).incomplete) == ["bundles/fx_graph/two/default/"]
    folder.damage(folder.only("/other/.*pack"), "flip")
    assert check(folder, "run").bad == ()
    folder.damage(folder.only("/one/.*pack"), "flip")
    assert names(check(folder, "run").bad) == [folder.only("/one/.*pack")]


def test_leftovers_of_killed_writers_are_told(folder: RawBucket) -> None:
    """A pack without a manifest, and kernel folders that no bundle uses; half of one is incomplete."""
    save(folder, make_bundle("one", kernels=2))
    folder.damage(folder.only("manifest"), "delete")
    folder.damage(folder.names("cubin")[0], "delete")
    save(folder, make_bundle("two", kernels=0))
    found = check(folder)
    kernels = sorted({name.rpartition("/")[0] + "/" for name in folder.names("^kernels/")})
    assert found.bad == ()
    assert set(found.leftovers) == {*kernels, folder.only("/one/.*pack").removesuffix("pack.tar.zst")}
    assert names(found.incomplete) == kernels[:1]


def test_what_is_bad_can_be_removed(folder: RawBucket) -> None:
    """A damaged object goes alone; a bundle that cannot be loaded goes whole; the next writer makes up for both."""
    bundles = [make_bundle(key, kernels=count) for key, count in (("one", 2), ("two", 0), ("three", 1))]
    save(folder, *bundles)
    before = folder.contents("^(bundles|kernels)/.*(?<!manifest.json)$")
    lone, whole = folder.names("cubin")[1], folder.only("/two/.*manifest")
    folder.damage(lone, "flip")
    folder.damage(whole, "truncate")
    removed = check(folder, delete_bad=True).removed
    assert removed[0] == whole
    assert set(removed) == {lone, *(name for name in before if "/two/" in name), whole}
    assert check(folder).bad == ()
    save(folder, *bundles)
    assert folder.contents("^(bundles|kernels)/.*(?<!manifest.json)$") == before
    again = check(folder)
    assert (again.bad, again.incomplete) == ((), ())


def test_progress_counts_bundles(folder: RawBucket) -> None:
    """It ends with all of them."""
    save(folder, *(make_bundle(key, kernels=1) for key in "abcdef"))
    told: list[tuple[int, int]] = []
    verify(Catalog(folder.bucket()), progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 6) for number in range(7)]


def test_what_is_not_there_cannot_be_verified(folder: RawBucket) -> None:
    """An unknown name, and a bucket that holds nothing, are errors and not good news."""
    with pytest.raises(TritonSyncError, match="nothing that could be verified"):
        check(folder)
    save(folder, dataclasses.replace(make_bundle("one")))
    with pytest.raises(TritonSyncError, match="'two'"):
        check(folder, "two")
