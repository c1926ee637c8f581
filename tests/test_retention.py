"""What may go from a bucket, and what never does."""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.bundles import make_bundle, make_kernel, make_value
from tests.keys import make_key
from tests.raw import RawBucket
from tests.traffic import Traffic
from tritonsync import times
from tritonsync.errors import RemoteTimeoutError
from tritonsync.format.bundle import Bundle
from tritonsync.format.layout import BundlePlace
from tritonsync.format.manifest import Manifest, Signature
from tritonsync.format.signing import Signer, TrustPolicy
from tritonsync.format.value import bundle_of_value
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_workload, workload_of_manifest
from tritonsync.local.inductor_cache import write_value
from tritonsync.remote.bucket import Answer, Bucket
from tritonsync.session.context import Host
from tritonsync.session.session import Session
from tritonsync.session.workload import WorkloadRecord
from tritonsync.settings import Settings
from tritonsync.store import Store
from tritonsync.store.catalog import Catalog
from tritonsync.store.needs import Name, Needs
from tritonsync.store.retention import Plan, Policy, mark
from tritonsync.store.sweep import missing_entries, sweep
from tritonsync.store.usage import usage
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.environment import host_environment
from tritonsync.sync.push import push

DAY = 86_400.0


def publish(store: Store, bundle: Bundle) -> None:
    store.complete(store.publish(bundle))


def publish_list(store: Store, name: str, *keys: str) -> None:
    entries = tuple(WorkloadEntry(kind="fx_graph", key=key, variant="default") for key in keys)
    listed = Workload(inductor_dir="/cache", entries=entries)
    store.publish_newest(bundle_of_workload(name, listed), inline=(LIST,))


def collect(store: Store, policy: Policy, *, days: float = 0.0) -> Plan:
    """Mark and sweep as if so many days had passed."""
    catalog = Catalog(store.bucket)
    plan = mark(catalog, policy, clock=lambda: time.time() + days * DAY)
    sweep(catalog, plan)
    return plan


def keys_in(raw: RawBucket) -> set[str]:
    return {name.split("/")[2] for name in raw.names("^bundles/.*manifest.json$")}


def test_what_no_list_names_goes_when_it_is_old(raw: RawBucket) -> None:
    """With its kernel folders; what a list names stays, on every filesystem."""
    store = raw.store()
    publish(store, make_bundle("listed", kernels=2))
    publish(store, make_bundle("unlisted", kernels=3))
    publish_list(store, "job", "listed")
    collect(store, Policy(older_than=30 * DAY), days=10)
    assert keys_in(raw) == {"listed", "unlisted", "job"}
    publish_list(store, "job", "listed")
    plan = collect(store, Policy(older_than=5 * DAY), days=0)
    assert plan.bundles == ()
    # The list is young, the bundles are not.
    catalog = Catalog(store.bucket)
    old = {place for place in catalog.places if place.kind != "workload"}
    for place in old:
        info = catalog.objects[place.manifest]
        object.__setattr__(info, "modified", (info.modified or 0) - 40 * DAY)
    plan = mark(catalog, Policy(older_than=30 * DAY, grace=0.0))
    sweep(catalog, plan)
    assert keys_in(raw) == {"listed", "job"}
    assert {name.split("/")[1] for name in raw.names("^kernels/")} == {make_kernel(0).hash, make_kernel(1).hash}
    assert len(store.load("fx_graph", "listed").bundles) == 1


def test_old_lists_go_and_what_only_they_named(tmp_path: Path) -> None:
    """The newest one of each workload stays, and what is younger than the grace period."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    for key in ("a", "b", "c"):
        publish(store, make_bundle(key, kernels=1))
    publish_list(store, "job", "a", "b")
    publish_list(store, "job", "b", "c")
    assert collect(store, Policy(older_than=DAY)).bundles == ()
    plan = collect(store, Policy(older_than=None), days=2)
    assert [place.kind for place in plan.bundles] == ["workload"]
    assert len(raw.names("^bundles/workload/job/.*manifest")) == 1
    assert keys_in(raw) == {"a", "b", "c", "job"}
    collect(store, Policy(older_than=3 * DAY), days=2)
    assert keys_in(raw) == {"a", "b", "c", "job"}
    collect(store, Policy(older_than=1 * DAY), days=2)  # the newest list, too, is older than that
    assert keys_in(raw) == set()
    assert raw.names() == []


def test_one_workload_goes_and_what_others_need_stays(tmp_path: Path) -> None:
    """Kernel folders of bundles that it does not name are not its own either."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    for key in ("mine", "shared", "theirs", "nobody's"):
        publish(store, make_bundle(key, kernels=1, build=key))
    publish_list(store, "one", "mine", "shared")
    publish_list(store, "two", "shared", "theirs")
    collect(store, Policy(keep_last=0, workload="One", grace=0.0), days=0.001)
    assert keys_in(raw) == {"shared", "theirs", "two"} | {key for key in keys_in(raw) if len(key) == 64}
    assert len(raw.names("^kernels/.*cubin")) == 3
    assert not missing_entries(store.bucket, [WorkloadEntry(kind="fx_graph", key="shared", variant="default")])


def test_a_bucket_can_be_kept_small(tmp_path: Path) -> None:
    """The workload that was published longest ago goes first."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    for number, name in enumerate(("old", "middle", "new")):
        publish(store, make_bundle(name, kernels=1, build=name))
        publish_list(store, name + "-job", name)
        for path in (tmp_path / "bucket" / "bundles").rglob("*"):
            stamp = time.time() - (10 - number) * DAY
            if name in str(path):
                os.utime(path, (stamp, stamp))
    total = sum(path.stat().st_size for path in (tmp_path / "bucket").rglob("*") if path.is_file())
    plan = collect(store, Policy(max_bytes=int(total * 0.8), grace=0.0))
    assert keys_in(raw) == {"middle", "new", "middle-job", "new-job"}
    assert plan.kept_bytes <= total * 0.8


def test_no_more_goes_than_a_size_asks_for(tmp_path: Path) -> None:
    """A dropped list takes what it alone names; after all lists that may, what no list names goes one by one."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    for number in range(4):
        publish(store, make_bundle(f"unnamed{number}", kernels=1, build=f"unnamed{number}"))
        age(tmp_path / f"bucket/bundles/fx_graph/unnamed{number}", 20 - number)
    for name in ("old", "both", "new", "young"):
        publish(store, make_bundle(name, kernels=1, build=name))
    publish_list(store, "old-job", "old", "both")
    publish_list(store, "new-job", "new", "both")
    publish_list(store, "young-job", "young")
    for name in ("workload/old-job", "fx_graph/old"):
        age(tmp_path / "bucket/bundles" / name, 30)
    for name in ("workload/new-job", "fx_graph/new", "fx_graph/both", "fx_graph/young"):
        age(tmp_path / "bucket/bundles" / name, 10)
    age(tmp_path / "bucket/kernels", 30)
    catalog = Catalog(store.bucket)
    total = sum(info.size for info in (*catalog.objects.values(), *catalog.kernel_objects.values()))

    def going(size: int) -> list[str]:
        plan = mark(catalog, Policy(max_bytes=size))
        assert plan.bytes + plan.kept_bytes == total
        assert plan.kept_bytes <= size or size == 0
        assert len(plan.folders) == sum(place.kind != "workload" for place in plan.bundles)
        return sorted(place.key for place in plan.bundles)

    assert going(total) == []
    assert going(total - 1) == ["old", "old-job"]
    kept = mark(catalog, Policy(max_bytes=total - 1)).kept_bytes
    assert going(kept - 1) == ["both", "new", "new-job", "old", "old-job"]
    kept = mark(catalog, Policy(max_bytes=kept - 1)).kept_bytes
    named = ["both", "new", "new-job", "old", "old-job"]
    assert going(kept - 1) == [*named, "unnamed0"]
    assert going(0) == [*named, *(f"unnamed{number}" for number in range(4))]
    one = mark(catalog, Policy(max_bytes=0, workload="old-job"))
    assert sorted(place.key for place in one.bundles) == ["old", "old-job"]


def test_a_size_is_asked_for_of_many_workloads_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each list names is looked at some times, however many go."""
    store = RawBucket(str(tmp_path / "bucket")).store()
    for number in range(40):
        publish_list(store, f"job{number}", "a", "b")
    looked = [0]
    original = Needs.names

    def names(needs: Needs, place: BundlePlace) -> frozenset[Name]:
        looked[0] += 1
        return original(needs, place)

    monkeypatch.setattr(Needs, "names", names)
    plan = mark(Catalog(store.bucket), Policy(max_bytes=0), clock=lambda: time.time() + DAY)
    assert len(plan.bundles) == 40
    assert looked[0] <= 5 * 40


@pytest.mark.parametrize("kind", ["pgo", "dynamo"])
def test_what_others_of_its_key_have_replaced_goes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each signer the newest stays that a list means, and what was replaced so lately that somebody may hold it."""
    raw = RawBucket(str(tmp_path / "bucket"))
    key = make_key()
    trust = TrustPolicy.from_pems([key.public])
    policy = functools.partial(Policy, trust=trust)
    signed = raw.store(signer=Signer.from_pem(key.private), trust=trust)
    stores = {"signed": signed, "plain": raw.store()}
    for number in range(4):
        for store in stores.values():
            store.publish_newest(bundle_of_value(kind, "job", b"profile %d of %d" % (number, id(store))))
    entries = (WorkloadEntry(kind=kind, key="job", variant="default"),)
    stores["plain"].publish_newest(
        bundle_of_workload("prod", Workload(inductor_dir="/x", entries=entries)), inline=(LIST,)
    )
    age(tmp_path / "bucket/bundles" / kind, 400)
    before = raw.names(f"^bundles/{kind}/.*manifest")
    assert mark(Catalog(store.bucket), policy()).bundles == ()
    assert mark(Catalog(store.bucket), policy(older_than=90 * DAY, keep_last=4)).bundles == ()
    sizes = {name: mark(Catalog(store.bucket), policy(max_bytes=size)) for name, size in (("one", 1), ("all", 10**6))}
    assert [len(plan.bundles) for plan in sizes.values()] == [6, 0]
    newest = {name: _newest(store, kind) for name, store in stores.items()}
    collect(stores["plain"], policy(older_than=90 * DAY))
    assert len(before) == 8
    assert len(raw.names(f"^bundles/{kind}/.*manifest")) == 2
    assert {name: _newest(store, kind) for name, store in stores.items()} == newest
    stores["plain"].publish_newest(bundle_of_value(kind, "job", b"the newest"))
    collect(stores["plain"], policy(older_than=90 * DAY), days=0.01)
    assert len(raw.names(f"^bundles/{kind}/.*manifest")) == 3
    collect(stores["plain"], policy(older_than=90 * DAY), days=1)
    assert len(raw.names(f"^bundles/{kind}/.*manifest")) == 2


def _newest(store: Store, kind: str) -> str:
    [loaded] = store.load(kind, "job", newest=1).bundles
    return loaded.place.prefix


def test_what_has_no_time_counts_as_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some filesystems give none: then only `rm` removes anything, which asks for no age."""
    monkeypatch.setattr("tritonsync.remote.bucket.modified", lambda info: None)
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    for key in ("a", "b", "killed"):
        publish(store, make_bundle(key, kernels=1, build=key))
    publish_list(store, "job", "a")
    publish_list(store, "job", "a", "b")
    raw.delete(raw.only("^bundles/fx_graph/killed/.*manifest.json$"))
    before = raw.names()
    plan = collect(store, Policy(older_than=90 * DAY, keep_last=0, max_bytes=1))
    assert (plan.bundles, plan.leftovers, plan.folders) == ((), (), ())
    assert raw.names() == before
    ages = usage(Catalog(store.bucket), "age", now=time.time()).rows
    assert [(row.name, row.bundles) for row in ages if row.bundles] == [("unknown", 4)]
    collect(store, Policy(keep_last=0, workload="job", grace=0.0))
    assert keys_in(raw) == set()


def test_leftovers_of_killed_writers_go(tmp_path: Path) -> None:
    """Objects of a bundle without a manifest, and kernel folders that no bundle uses; not before they are old."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    publish(store, make_bundle("whole", kernels=1))
    publish(store, make_bundle("killed", kernels=2, build="two"))
    raw.delete(raw.only("^bundles/fx_graph/killed/.*manifest.json$"))
    before = raw.names()
    collect(store, Policy())
    assert raw.names() == before
    plan = collect(store, Policy(), days=1)
    assert len(plan.leftovers) == 2
    assert len(plan.folders) == 2
    assert keys_in(raw) == {"whole"}
    assert not raw.names("killed")
    assert len(store.load("fx_graph", "whole").bundles) == 1


def test_objects_of_others_stay(tmp_path: Path) -> None:
    """Whatever they are called: what tritonsync does not write is neither a leftover nor a kernel folder."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    publish(store, make_bundle("going", kernels=1))
    place = Catalog(store.bucket).places[0]
    theirs = [
        "models/x.bin",
        "bundles/app.js",
        "bundles/frontend/app.js",
        f"bundles/fx_graph/going/default/{'z' * 32}/pack.tar.zst",
        f"{place.prefix}notes.txt",
        f"{place.prefix}payloads/deep/er",
        "kernels/linux-6.8/vmlinuz",
        "kernels/flash_attn/v3/fa3.so",
        f"kernels/flash_attn/{'0' * 32}/build/fa3.so",
    ]
    for name in theirs:
        raw.write(name, b"precious")
    plan = collect(store, Policy(older_than=DAY), days=2)
    assert plan.bundles == (place,)
    assert raw.names() == sorted(theirs)


def test_a_cache_below_a_prefix_that_was_forgotten_stays(tmp_path: Path) -> None:
    """Such as the one of the README, `kernels`, or `bundles`."""
    for prefix in ("kernels", "bundles"):
        raw = RawBucket(str(tmp_path / prefix))
        below = RawBucket(f"{raw.url}/{prefix}").store()
        below.bucket.probe()
        publish(below, make_bundle("key", kernels=2))
        publish_list(below, "job", "key")
        before = raw.names()
        assert len(before) > 5
        plan = collect(raw.store(), Policy(older_than=0.0), days=100)
        assert (plan.bundles, plan.leftovers, plan.folders, plan.bytes) == ((), (), (), 0)
        assert raw.names() == before


def test_what_a_newer_tritonsync_wrote_stays(tmp_path: Path) -> None:
    """And with it every kernel folder, because nobody here can tell which ones it uses."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    publish(store, make_bundle("newer", kernels=1))
    publish(store, make_bundle("gone", kernels=1, build="two"))
    name = raw.only("^bundles/fx_graph/newer/.*manifest.json$")
    raw.write(name, raw.read(name).replace(b'"format":1', b'"format":2'))
    collect(store, Policy(older_than=0.0, grace=0.0), days=1)
    assert keys_in(raw) == {"newer"}
    assert len(raw.names("^kernels/.*cubin")) == 2


def test_a_list_that_comes_during_the_sweep_saves_its_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the manifest is gone, and right after: then it is put back, byte for byte."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    publish(store, make_bundle("before", kernels=1, build="one"))
    publish(store, make_bundle("after", kernels=1, build="two"))
    catalog = Catalog(store.bucket)
    plan = mark(catalog, Policy(older_than=0.0, grace=0.0), clock=lambda: time.time() + DAY)
    assert len(plan.bundles) == 2
    publish_list(store, "early", "before")
    original, contents = Bucket.delete, raw.contents("^bundles/fx_graph")

    def delete(bucket: Bucket, name: str, **given: float) -> None:
        original(bucket, name, **given)
        if "/after/" in name and name.endswith("manifest.json"):
            monkeypatch.undo()
            publish_list(store, "late", "after")

    monkeypatch.setattr(Bucket, "delete", delete)
    swept = sweep(catalog, plan)
    assert (swept.bundles, swept.spared) == (0, 2)
    assert raw.contents("^bundles/fx_graph") == contents


def test_a_bundle_whose_manifest_cannot_be_read_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be put back for a list that names it meanwhile."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    for key in ("silent", "gone", "good"):
        publish(store, make_bundle(key, kernels=1, build=key))
    catalog = Catalog(store.bucket)
    plan = mark(catalog, Policy(older_than=0.0, grace=0.0), clock=lambda: time.time() + DAY)
    silent, before = raw.only("^bundles/fx_graph/silent/.*manifest"), raw.contents("/silent/")
    original = Bucket.get_many

    def get_many(bucket: Bucket, limits: Mapping[str, int], **given: float) -> dict[str, Answer]:
        if silent not in limits:
            return original(bucket, limits, **given)
        monkeypatch.undo()
        raw.delete(raw.only("^bundles/fx_graph/gone/.*manifest"))
        return {**original(store.bucket, limits), silent: RemoteTimeoutError("no whole answer")}

    monkeypatch.setattr(Bucket, "get_many", get_many)
    swept = sweep(catalog, plan)
    assert (swept.bundles, swept.spared, swept.unread) == (2, 0, 1)
    assert keys_in(raw) == {"silent"}
    assert raw.contents("/silent/") == before
    assert len(store.load("fx_graph", "silent").bundles) == 1


@pytest.mark.parametrize("failing", ["list", "delete"])
def test_manifests_are_put_back_where_nobody_can_tell_who_names_them(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look at the lists fails, or not all could be deleted: readers find all of them."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    for number in range(3):
        publish(store, make_bundle(f"key{number}", kernels=1))
    before = raw.contents()
    catalog = Catalog(store.bucket)
    plan = mark(catalog, Policy(older_than=0.0, grace=0.0), clock=lambda: time.time() + DAY)
    original = getattr(Bucket, failing)

    def fail(bucket: Bucket, name: str, **given: float) -> Any:
        if "/key2/" in name or not raw.names("^bundles/fx_graph/key0/.*manifest"):
            raise RemoteTimeoutError("no whole answer")
        return original(bucket, name, **given)

    monkeypatch.setattr(Bucket, failing, fail)
    with pytest.raises(RemoteTimeoutError):
        sweep(catalog, plan)
    assert raw.contents() == before


def test_a_writer_notices_what_was_swept(tmp_path: Path) -> None:
    """It asks after it has published its list."""
    store = RawBucket(str(tmp_path / "bucket")).store()
    publish(store, make_bundle("there", kernels=1))
    entries = [WorkloadEntry(kind="fx_graph", key=key, variant="default") for key in ("there", "gone")]
    assert missing_entries(store.bucket, entries) == {entries[1]}


def test_a_writer_does_not_build_on_a_pack_that_may_be_going(tmp_path: Path) -> None:
    """One that has lain there alone for long: it writes another generation, under names that no collector knows."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    bundle = make_bundle("key", kernels=1)
    store.publish(bundle)
    raw.delete(raw.only("manifest.json$"))
    [pack] = raw.names("pack")
    assert store.publish(bundle).created
    assert raw.names("pack") == [pack]  # it was young: another writer is at work
    raw.delete(raw.only("manifest.json$"))
    os.utime(tmp_path / "bucket" / pack, (0, 0))
    assert store.publish(bundle).created
    raw.delete(pack)  # the collector gets there at last
    assert len(store.load("fx_graph", "key").bundles) == 1


def test_kernel_folders_that_a_new_bundle_needs_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer took them for present while they were being deleted."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    publish(store, make_bundle("old", kernels=2))
    before = raw.contents("^kernels/")
    catalog = Catalog(store.bucket)
    plan = mark(catalog, Policy(older_than=0.0, grace=0.0), clock=lambda: time.time() + DAY)
    original = Bucket.delete

    def delete(bucket: Bucket, name: str, **given: float) -> None:
        if name.startswith("kernels/"):
            monkeypatch.undo()
            publish(store, make_bundle("new", kernels=2))
        original(bucket, name, **given)

    monkeypatch.setattr(Bucket, "delete", delete)
    sweep(catalog, plan)
    assert keys_in(raw) == {"new"}
    assert raw.contents("^kernels/") == before


def test_a_list_counts_as_long_as_somebody_may_hold_it(tmp_path: Path) -> None:
    """For the grace period after another one has taken its place, or it has become too old."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    for key in ("a", "b"):
        publish(store, make_bundle(key, kernels=1))
        publish_list(store, "job", key)
    for path in (tmp_path / "bucket").rglob("*"):
        os.utime(path, (0, 0))
    publish(store, make_bundle("c", kernels=1))
    publish_list(store, "job", "c")
    hour = Policy(older_than=3600, grace=3600)
    for hours, left in ((0, {"b", "c", "job"}), (1.1, {"c", "job"}), (1.9, {"c", "job"}), (2.1, set())):
        collect(store, hour, days=hours / 24)
        assert keys_in(raw) == left


def age(folder: Path, days: float) -> None:
    """Let everything in a folder have been written so long ago."""
    for path in folder.rglob("*"):
        stamp = time.time() - days * DAY
        os.utime(path, (stamp, stamp))


def test_the_newest_list_of_each_signer_is_kept(tmp_path: Path) -> None:
    """Teams that trust other keys share a bucket, and the derived name of a workload."""
    raw = RawBucket(str(tmp_path / "bucket"))
    stores, publics = [raw.store()], []
    for _ in range(2):
        key = make_key()
        publics.append(key.public)
        stores.append(raw.store(signer=Signer.from_pem(key.private), trust=TrustPolicy.from_pems([key.public])))
    for number, store in enumerate(stores):
        for name in (f"old{number}", f"new{number}"):
            publish(store, make_bundle(name, kernels=1))
            publish_list(store, "job", name)
    age(tmp_path / "bucket", 5)
    age(tmp_path / "bucket/bundles/fx_graph", 20)
    assert len(mark(Catalog(raw.bucket()), Policy()).strange) == 4
    collect(stores[0], Policy(older_than=10 * DAY, trust=TrustPolicy.from_pems(publics)))
    assert keys_in(raw) == {"job", "new0", "new1", "new2"}
    for number, store in enumerate(stores[1:], 1):
        [newest] = store.load("workload", "job", newest=1, have=lambda _: True).present
        assert {entry.key for entry in workload_of_manifest(newest).entries} == {f"new{number}"}


class _Forger(Signer):
    """Signs in the name of another key."""

    def __init__(self, own: bytes, name: str) -> None:
        super().__init__(Signer.from_pem(own)._private)
        self._name = name

    def sign(self, manifest: Manifest) -> Manifest:
        return msgspec.structs.replace(manifest, signature=Signature(key_id=self._name, ed25519="A" * 86 + "=="))


@pytest.mark.parametrize("is_known", [True, False])
def test_a_forged_list_takes_no_signed_ones_place(tmp_path: Path, *, is_known: bool) -> None:
    """Who may write, and has no key, can only name one; whether or not whoever collects knows the key."""
    raw = RawBucket(str(tmp_path / "bucket"))
    key, other = make_key(), make_key()
    store = raw.store(signer=Signer.from_pem(key.private), trust=TrustPolicy.from_pems([key.public]))
    publish(store, make_bundle("needed", kernels=1))
    publish_list(store, "job", "needed")
    [signed] = (tmp_path / "bucket/bundles/workload/job").iterdir()
    publish_list(raw.store(signer=_Forger(other.private, Signer.from_pem(key.private).key_id)), "job")
    age(tmp_path / "bucket", 2)
    age(tmp_path / "bucket/bundles/fx_graph", 20)
    age(signed, 5)
    assert len(raw.names("^bundles/workload/.*manifest")) == 2
    trust = TrustPolicy.from_pems([key.public]) if is_known else TrustPolicy()
    for policy in (Policy(trust=trust), Policy(older_than=10 * DAY, trust=trust)):
        assert mark(Catalog(raw.bucket()), policy).bundles == ()


@pytest.mark.parametrize("state", ["damaged", "newer"])
def test_a_list_that_cannot_be_read_may_name_anything(state: str, tmp_path: Path) -> None:
    """And takes no other list's place. A damaged one goes as others do, once readable ones have taken its own."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    for key in ("good", "bad", "unnamed"):
        publish(store, make_bundle(key, kernels=1))
    publish_list(store, "job", "good")
    [good] = raw.names("^bundles/workload/.*manifest")
    publish_list(store, "job", "bad")
    [bad] = set(raw.names("^bundles/workload/.*manifest")) - {good}
    data = raw.read(bad)
    raw.write(bad, data[:-9] if state == "damaged" else data.replace(b'"format":1', b'"format":2'))
    age(tmp_path / "bucket", 100)
    before = raw.names()
    catalog = Catalog(store.bucket)
    plan = mark(catalog, Policy(older_than=101 * DAY, max_bytes=1))
    assert [place.manifest for place in plan.unread] == [bad]
    assert (plan.bundles, plan.folders) == ((), ())
    publish_list(store, "job", "good", "other")
    names = {place.manifest for place in collect(store, Policy(older_than=50 * DAY, grace=60.0), days=1).bundles}
    if state == "damaged":
        assert {good, bad} < names
        assert keys_in(raw) == {"job", "good"}
    else:
        assert names == {good}
        assert set(raw.names()) > set(before) - {good}


def test_a_list_that_comes_during_the_sweep_and_cannot_be_read_saves_all(tmp_path: Path) -> None:
    """It may name any of them."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    publish(store, make_bundle("key", kernels=1))
    catalog = Catalog(store.bucket)
    plan = mark(catalog, Policy(older_than=0.0, grace=0.0), clock=lambda: time.time() + DAY)
    publish_list(store, "job", "key")
    raw.damage(raw.only("^bundles/workload/.*manifest"), "truncate")
    swept = sweep(catalog, plan)
    assert (swept.bundles, swept.spared) == (0, 1)
    assert len(store.load("fx_graph", "key").bundles) == 1


def test_push_publishes_again_what_was_swept_before_its_list_came(
    h200_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The push found it there, and did not write it."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store, caches = raw.store(), LocalCaches.at(h200_vit)
    push(store, caches, h200_vit / "triton", "one")
    before = {name for name in raw.names("manifest.json$|pack") if "/workload/" not in name}
    original = Store.publish_newest

    def publish_newest(self: Store, bundle: Bundle, **given: Any) -> Any:
        monkeypatch.undo()
        for name in raw.names("^bundles/"):
            if "/workload/" not in name:
                raw.delete(name)
        return original(self, bundle, **given)

    monkeypatch.setattr(Store, "publish_newest", publish_newest)
    push(store, caches, h200_vit / "triton", "two")
    assert {name for name in raw.names("manifest.json$|pack") if "/workload/" not in name} == before


def test_a_program_publishes_again_what_was_swept_before_its_list_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of its own cache; what it cannot publish again, its list does not name."""
    raw = RawBucket(str(tmp_path / "bucket"))

    def session(folder: str) -> Session:
        host = Host(lambda: LocalCaches.at(tmp_path / folder), lambda: "x86_64:avx2", host_environment)
        return Session(Settings(url=raw.url, workload="job", quiet=True), host)

    def make(now: Session, folder: str, key: str) -> None:
        data = make_value(key)
        now.note_value_made(data)
        write_value(tmp_path / folder, "fx_graph", key, data)
        now.enqueue_value("fx_graph", key, data)

    keys = ["f" + letter * 51 for letter in "abc"]
    first = session("first")
    for key in keys[:2]:
        make(first, "first", key)
    first.stop()
    second = session("second")
    for key in keys[:2]:
        assert len(list(second.look_up("fx_graph", key).more())) == 1
    make(second, "second", keys[2])
    shutil.rmtree(tmp_path / "second/fxgraph" / keys[1][1:3])  # as if somebody had cleaned up
    original = WorkloadRecord.publish

    def publish(self: WorkloadRecord, *given: Any) -> Any:
        monkeypatch.undo()
        monkeypatch.setattr(times, "YOUNG_LIST_S", 0.0)  # the list before is old, and may have been taken too
        for key in keys[:2]:
            for name in raw.names(f"/{key}/"):
                raw.delete(name)
        return original(self, *given)

    monkeypatch.setattr(WorkloadRecord, "publish", publish)
    second.stop()
    assert {key for key in keys_in(raw) if key in keys} == {keys[0], keys[2]}
    [newest] = raw.store().load("workload", "job", newest=1, have=lambda _: True).present
    assert {entry.key for entry in workload_of_manifest(newest).entries} == {keys[0], keys[2]}


def test_nothing_that_was_promised_is_lost_beside_traffic(tmp_path: Path) -> None:
    """Four writers, four readers and a collector that never stops (`python -m tests.traffic` for longer)."""
    traffic = Traffic(lambda: Bucket(str(tmp_path / "bucket")), seconds=6, grace=1.0)
    traffic.run()
    assert traffic.errors == []
    assert traffic.counts["bundles loaded"] > 0
    assert traffic.counts["promises broken"] == 0
    assert traffic.counts["bundles removed"] > 0


def test_a_bucket_is_added_up(tmp_path: Path) -> None:
    """By workload, kind and age; what two workloads share counts once in the total."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    for key in ("a", "b"):
        publish(store, make_bundle(key, kernels=1))
    publish_list(store, "one", "a", "b")
    publish_list(store, "two", "b")
    catalog = Catalog(store.bucket)
    by_workload = usage(catalog, "workload", now=time.time())
    rows = {row.name: row.bundles for row in by_workload.rows}
    assert rows == {"one": 3, "two": 2, "kernel folders": 0}
    objects = [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()]
    assert by_workload.bytes == sum(path.stat().st_size for path in objects if path.name != "tritonsync.json")
    assert {row.name: row.bundles for row in usage(catalog, "kind", now=time.time()).rows if row.bundles} == {
        "fx_graph": 2,
        "workload": 2,
    }
    ages = usage(catalog, "age", now=time.time() + 10 * DAY).rows
    assert [(row.name, row.bundles) for row in ages if row.bundles] == [("under 30 d", 4)]
