"""Copies of what a workload lists: one request in place of many, and never needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faultproxy import FaultProxy
from tests.format.test_start import handmade
from tests.keys import make_key
from tests.leftovers import wait_until
from tests.raw import RawBucket
from tests.servers import Server
from tests.test_push_pull import assert_same
from tritonsync.format import start
from tritonsync.format.bundle import GRAPHS
from tritonsync.format.signing import Signer, TrustPolicy
from tritonsync.format.workload import workload_of_manifest
from tritonsync.session.session import Session
from tritonsync.settings import Settings
from tritonsync.store import Found, Store
from tritonsync.store.catalog import Catalog
from tritonsync.store.retention import Plan, Policy, mark
from tritonsync.store.sweep import sweep
from tritonsync.store.usage import usage
from tritonsync.store.verify import verify
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import Pulled, pull
from tritonsync.sync.push import push


def push_from(store: Store, folder: Path) -> None:
    push(store, LocalCaches.at(folder), folder / "triton", "name")


def pull_into(store: Store, folder: Path) -> Pulled:
    return pull(store, LocalCaches.at(folder), "name")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> RawBucket:
    """A bucket that is a folder."""
    return RawBucket(str(tmp_path_factory.mktemp("bucket")))


@pytest.fixture
def raw(folder: RawBucket, h200_vit: Path) -> RawBucket:
    """A bucket with a workload that lists graphs."""
    push_from(folder.store(), h200_vit)
    return folder


@pytest.fixture
def behind(s3_proxy: FaultProxy, moto_server: Server, h200_vit: Path) -> Iterator[RawBucket]:
    """The same behind a proxy that counts."""
    place = moto_server.place(endpoint=s3_proxy.url)
    with RawBucket(place.url, place.options) as bucket:
        push_from(bucket.store(), h200_vit)
        s3_proxy.clear()
        yield bucket


def test_an_empty_host_asks_four_times_whatever_is_listed(
    behind: RawBucket, s3_proxy: FaultProxy, h200_vit: Path, tmp_path: Path
) -> None:
    """The list of lists; then the newest one, its pack, and the copies. No graph is asked for by itself."""
    pulled = pull_into(behind.store(), tmp_path)
    assert (pulled.requests, pulled.missing) == (4, ())
    assert s3_proxy.count() == 4
    assert s3_proxy.count("GET", "start.tar") == 1
    assert_same(tmp_path, h200_vit)


def test_a_host_that_has_it_fetches_no_copies(behind: RawBucket, s3_proxy: FaultProxy, tmp_path: Path) -> None:
    """They would be most of what is downloaded."""
    pull_into(behind.store(), tmp_path)
    s3_proxy.clear()
    assert pull_into(behind.store(), tmp_path).kernels_emitted == 0
    assert s3_proxy.count(path="start.tar") == 0


@pytest.mark.parametrize("damage", ["flip", "truncate", "pad", "empty", "delete"])
def test_without_good_copies_everything_is_asked_for(
    damage: str, raw: RawBucket, h200_vit: Path, tmp_path: Path
) -> None:
    """What cannot be used of them is fetched as if there were none."""
    raw.damage(raw.only("start.tar$"), damage)
    assert pull_into(raw.store(), tmp_path).missing == ()
    assert_same(tmp_path, h200_vit)


Objects = dict[str, bytes]


def with_other_packs(objects: Objects) -> bytes:
    """Each bundle's manifest as it was, with the pack of another one."""
    packs = [name for name in objects if name.endswith("pack.tar.zst")]
    return start.encode(objects | {name: objects[other] for name, other in zip(packs, packs[1:] + packs, strict=False)})


def with_other_manifests(objects: Objects) -> bytes:
    """What it says of itself does not fit to where it lies, or to its pack."""
    return start.encode(
        {
            name: data.replace(b'"sha256":"', b'"sha256":"0') if "manifest" in name else data
            for name, data in objects.items()
        }
    )


def of_other_bundles(objects: Objects) -> bytes:
    return start.encode({name.replace("/default/", "/another/"): data for name, data in objects.items()})


def above_the_folder(objects: Objects) -> bytes:
    name = "bundles/../../outside"
    return handmade([[name, 1]], (name, b"1")) + start.encode(objects)


def of_kernel_folders(_objects: Objects) -> bytes:
    return start.encode({"kernels/hash/id/k.cubin": b"1"})


def too_large(objects: Objects) -> bytes:
    return start.encode(objects | {"bundles/fx_graph/more/default/1/pack.tar.zst": bytes(start.MAX_START_BYTES)})


@pytest.mark.parametrize(
    "hostile",
    [with_other_packs, with_other_manifests, of_other_bundles, above_the_folder, of_kernel_folders, too_large],
)
def test_hostile_copies_cost_nothing_but_the_requests_they_save(
    hostile: Callable[[Objects], bytes], raw: RawBucket, h200_vit: Path, tmp_path: Path
) -> None:
    """Everything comes from the single objects, no copy is taken, and no other file is written."""
    name = raw.only("start.tar$")
    objects = {member: bytes(data) for member, data in start.decode(raw.read(name)).items()}
    raw.write(name, hostile(objects))
    store = raw.store()
    for loaded in load_all(store):
        assert loaded.bundles
        assert not loaded.copied
    assert pull_into(store, tmp_path / "here").missing == ()
    assert_same(tmp_path / "here", h200_vit)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def load_all(store: Store) -> list[Found]:
    """Load every graph that a workload lists, as a program does that fetches ahead."""
    [workload] = store.load("workload", "name", newest=1, have=lambda _: True).present
    copies = store.copies_of(workload)
    graphs = [entry for entry in workload_of_manifest(workload).entries if entry.kind in GRAPHS]
    assert len(graphs) > 1
    return [store.load_copied(copies, entry.kind, entry.key) for entry in graphs]


def test_copies_that_nobody_trusted_signed_are_left_alone(folder: RawBucket, h200_vit: Path, tmp_path: Path) -> None:
    """Whoever can write the bucket can replace them; the signed bundles are loaded all the same."""
    pair = make_key()
    push_from(folder.store(), h200_vit)
    foreign = folder.read(folder.only("start.tar$"))
    for name in folder.names():
        folder.delete(name)
    push_from(folder.store(signer=Signer.from_pem(pair.private)), h200_vit)
    trusting = folder.store(trust=TrustPolicy.from_pems([pair.public]))
    assert all(found.copied for found in load_all(trusting))
    folder.write(folder.only("start.tar$"), foreign)
    assert all(found.copied for found in load_all(folder.store()))
    assert all(found.bundles and not found.copied for found in load_all(trusting))
    assert pull_into(trusting, tmp_path).missing == ()
    assert_same(tmp_path, h200_vit)


def test_a_start_has_a_limit(
    folder: RawBucket, h200_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is asked for; a larger one is not read."""
    monkeypatch.setattr("tritonsync.format.start.MAX_START_BYTES", 200_000)
    push_from(folder.store(), h200_vit)
    name = folder.only("start.tar$")
    kinds = {member.split("/")[1] for member in start.decode(folder.read(name))}
    assert len(kinds) == 1
    assert pull_into(folder.store(), tmp_path / "some").missing == ()
    monkeypatch.setattr("tritonsync.format.start.MAX_START_BYTES", 1000)
    found = folder.store().load("workload", "name", copies=True)
    assert (found.copies, len(found.bundles)) == (None, 1)
    assert_same(tmp_path / "some", h200_vit)


def test_a_push_that_changes_nothing_copies_nothing(raw: RawBucket, h200_vit: Path) -> None:
    """Object for object."""
    before = raw.contents()
    push_from(raw.store(), h200_vit)
    assert raw.contents() == before


def test_copies_are_verified(raw: RawBucket) -> None:
    """As all that a reader may take; they count as bad where nothing can be read of them, and may be removed."""
    assert verify(Catalog(raw.bucket())).bad == ()
    name = raw.only("start.tar$")
    raw.damage(name, "truncate")
    found = verify(Catalog(raw.bucket()), delete_bad=True)
    assert ([problem.name for problem in found.bad], found.removed) == ([name], (name,))
    assert verify(Catalog(raw.bucket())).bad == ()


def collect(raw: RawBucket, policy: Policy) -> Plan:
    """Mark and sweep as if a day had passed."""
    catalog = Catalog(raw.bucket())
    plan = mark(catalog, policy, clock=lambda: time.time() + 86_400)
    sweep(catalog, plan)
    return plan


def test_copies_stay_and_go_with_their_list(raw: RawBucket) -> None:
    """`gc` keeps them while the list is kept, `rm` takes them with it, and those of no list are leftovers."""
    name, before = raw.only("start.tar$"), raw.contents()
    collect(raw, Policy(grace=0.0))
    assert raw.contents() == before
    collect(raw, Policy(keep_last=0, workload="name", grace=0.0))
    assert raw.names("^bundles/|^kernels/") == []
    raw.write(name, before[name])  # as a push does that was overtaken
    assert collect(raw, Policy(grace=0.0)).leftovers == (name,)
    assert raw.names("^bundles/") == []


def test_copies_are_counted_with_their_list(raw: RawBucket) -> None:
    """In the sum of the workload, of its kind, and of the bucket."""
    name = raw.only("start.tar$")
    size = len(raw.read(name))
    for by, row in (("workload", "name"), ("kind", "workload")):
        with_them = usage(Catalog(raw.bucket()), by, now=time.time())
        content = raw.read(name)
        raw.delete(name)
        without = usage(Catalog(raw.bucket()), by, now=time.time())
        raw.write(name, content)
        sums = [{found.name: found.bytes for found in usages.rows}[row] for usages in (with_them, without)]
        assert (sums[0] - sums[1], with_them.bytes - without.bytes) == (size, size)


def test_a_program_fetches_ahead_from_copies(
    behind: RawBucket, s3_proxy: FaultProxy, h200_vit: Path, tmp_path: Path
) -> None:
    """Its lookups wait for what is on its way, and ask nothing themselves."""
    keys = [(kind, key) for kind in ("aot_autograd", "fx_graph") for key in _keys(behind, kind)]
    settings = Settings(
        url=behind.url,
        storage_options=behind.options,
        inductor_dir=str(tmp_path),
        triton_dir=str(tmp_path / "triton"),
        workload="name",
        quiet=True,
    )
    now = Session(settings)
    now.begin()
    now.graph_caches_are_known()
    wait_until(lambda: now.counts.kernels_fetched == 14 and all(now._incoming.names(*key) for key in keys))
    now.stop()
    assert s3_proxy.count("GET", "start.tar") == 1
    assert s3_proxy.count(path="fx_graph") + s3_proxy.count(path="aot_autograd") == 0


def _keys(raw: RawBucket, kind: str) -> set[str]:
    return {name.split("/")[2] for name in raw.names(f"bundles/{kind}/")}
