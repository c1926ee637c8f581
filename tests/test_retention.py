"""What may go from a bucket, and what never does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.bundles import make_bundle, make_kernel
from tests.raw import RawBucket
from tests.traffic import Traffic
from tritonsync.format.bundle import Bundle
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_workload
from tritonsync.remote.bucket import Bucket
from tritonsync.store import Store
from tritonsync.store.catalog import Catalog
from tritonsync.store.retention import Plan, Policy, mark, missing_entries, sweep
from tritonsync.store.usage import usage

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


def test_a_writer_notices_what_was_swept(tmp_path: Path) -> None:
    """It asks after it has published its list."""
    store = RawBucket(str(tmp_path / "bucket")).store()
    publish(store, make_bundle("there", kernels=1))
    entries = [WorkloadEntry(kind="fx_graph", key=key, variant="default") for key in ("there", "gone")]
    assert missing_entries(store.bucket, entries) == {entries[1]}


def test_hardly_anything_that_was_promised_is_lost_beside_traffic(tmp_path: Path) -> None:
    """Four writers, four readers and a collector that never stops (`python -m tests.traffic` for longer).

    With a grace period of a second, a kernel may go at the very moment in which a writer takes it for present: a miss.
    """
    traffic = Traffic(lambda: Bucket(str(tmp_path / "bucket")), seconds=6, grace=1.0)
    traffic.run()
    assert traffic.errors == []
    assert traffic.counts["bundles loaded"] > 0
    assert traffic.counts["promises broken"] <= 0.02 * traffic.counts["bundles loaded"]
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
