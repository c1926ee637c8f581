from __future__ import annotations

import dataclasses
import json
import logging

import pytest
import zstandard

from tests.bundles import make_bundle
from tests.faultproxy import Fault, FaultProxy, answer
from tests.keys import make_key
from tests.raw import RawBucket
from tests.servers import Server
from tritonsync.errors import FormatError, RemoteError
from tritonsync.format.bundle import Bundle, Payload
from tritonsync.format.signing import Signer, TrustPolicy
from tritonsync.store import Store


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonsync.times.SECOND_LOOK_S", 0.0)


@pytest.fixture
def store(raw: RawBucket) -> Store:
    return raw.store()


def test_what_is_published_is_loaded(store: Store) -> None:
    """A bundle comes back with the same kernels and payloads."""
    bundle = make_bundle()
    assert store.publish(bundle).created
    [loaded] = store.load("fx_graph", "key").bundles
    assert loaded.bundle == bundle


def test_an_unknown_key_is_a_miss(store: Store) -> None:
    """A key that nobody published gives nothing and raises nothing."""
    found = store.load("fx_graph", "unknown")
    assert (found.bundles, found.damaged) == ((), frozenset())


def test_what_no_reader_would_take_is_not_written(
    store: Store, raw: RawBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest above the limit of readers is an error of its writer, who would else write it again and again."""
    monkeypatch.setattr("tritonsync.store.writer.MAX_MANIFEST_BYTES", 300)
    with pytest.raises(FormatError, match="readers take 300"):
        store.publish(make_bundle())
    assert raw.contents("bundles/") == {}


def test_a_second_save_creates_nothing(store: Store, raw: RawBucket) -> None:
    """The same content twice leaves the bucket as it was."""
    store.complete(store.publish(make_bundle()))
    before = raw.contents()
    published = store.publish(make_bundle(), reread=True)
    assert not published.created
    assert not store.complete(published)
    assert raw.contents() == before


def test_a_variant_that_is_there_is_not_published_again(store: Store, raw: RawBucket) -> None:
    """A hundred workers that compile one key to different bytes leave one bundle, not a hundred."""
    for build in ("one", "two", "three"):
        store.publish(make_bundle(build=build))
    assert len(raw.contents("manifest.json$")) == 1
    [loaded] = store.load("fx_graph", "key").bundles
    assert loaded.bundle == make_bundle(build="one")


def test_every_variant_of_a_key_is_loaded(store: Store) -> None:
    """Bundles that serve different needs stand side by side."""
    wanted = {make_bundle(variant=f"{number:016x}", build=str(number)) for number in range(5)}
    for bundle in wanted:
        store.publish(bundle)
    assert {loaded.bundle for loaded in store.load("fx_graph", "key").bundles} == wanted


def test_kernels_are_shared_between_bundles(store: Store, raw: RawBucket) -> None:
    """A bundle made from half of another's kernels adds no kernel object."""
    store.complete(store.publish(make_bundle("whole", kernels=4)))
    before = raw.contents("^kernels/")
    half = store.publish(make_bundle("half", kernels=2))
    assert half.created
    assert not store.complete(half)
    assert raw.contents("^kernels/") == before


def test_without_its_pack_a_bundle_is_loaded_from_single_objects(store: Store, raw: RawBucket) -> None:
    """Payload objects and kernel folders make up the whole bundle."""
    store.complete(store.publish(make_bundle()))
    raw.delete(raw.only("pack.tar.zst$"))
    [loaded] = store.load("fx_graph", "key").bundles
    assert loaded.bundle == make_bundle()


@pytest.mark.parametrize("damage", ["flip", "truncate", "pad", "empty", "delete"])
def test_a_damaged_pack_is_replaced_by_single_objects(store: Store, raw: RawBucket, damage: str) -> None:
    """Whatever happens to a pack, what is loaded is right."""
    store.complete(store.publish(make_bundle()))
    raw.damage(raw.only("pack.tar.zst$"), damage)
    [loaded] = store.load("fx_graph", "key").bundles
    assert loaded.bundle == make_bundle()


@pytest.mark.parametrize("reread", [False, True])
@pytest.mark.parametrize("damage", ["flip", "truncate", "pad", "empty", "delete"])
@pytest.mark.parametrize("name", ["pack.tar.zst", "manifest.json"])
def test_a_damaged_bundle_is_a_miss_that_the_next_writer_heals(
    store: Store, raw: RawBucket, damage: str, name: str, reread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Without anything to fall back on, damage is a miss with a warning, and a save after it makes the key good."""
    store.publish(make_bundle())
    raw.damage(raw.only(f"{name}$"), damage)
    caplog.set_level(logging.WARNING)
    found = store.load("fx_graph", "key")
    assert found.bundles == ()
    if name == "pack.tar.zst" or damage != "delete":
        assert name in caplog.text or "fx_graph/key/default" in caplog.text
    # A writer that does not reread everything does so where its own miss looked like damage.
    assert store.publish(make_bundle(), reread=reread or bool(found.damaged)).created
    [loaded] = store.load("fx_graph", "key").bundles
    assert loaded.bundle == make_bundle()


def test_a_value_that_proved_unusable_is_replaced_three_times_and_then_given_up(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Generations go up to three; the highest is loaded; then nothing more is published, with one warning."""
    for generation, build in enumerate(("zero", "one", "two", "three")):
        assert store.publish(make_bundle(build=build), after=generation - 1).created
        [loaded] = store.load("fx_graph", "key").bundles
        assert (loaded.manifest.generation, loaded.bundle) == (generation, make_bundle(build=build))
    caplog.set_level(logging.WARNING)
    given_up = store.publish(make_bundle(build="four"), after=3)
    assert (given_up.created, given_up.place) == (False, None)
    assert "fx_graph/key/default" in caplog.text


GONE = answer(404, b"<Error><Code>NoSuchKey</Code></Error>", Content_Type="application/xml")


@pytest.mark.parametrize("fault", [GONE, answer(200, b'{"format"')], ids=["gone", "half"])
@pytest.mark.parametrize("name", ["pack.tar.zst", "manifest.json"])
def test_what_is_spoiled_for_a_moment_needs_no_other_generation(
    s3_proxy: FaultProxy, moto_server: Server, name: str, fault: Fault
) -> None:
    """A server without create-only writes gives nothing, or half, of an object while another writer replaces it."""
    place = moto_server.place(endpoint=s3_proxy.url)
    with RawBucket(place.url, place.options) as raw:
        store = raw.store()
        store.publish(make_bundle())
        before = raw.contents()
        s3_proxy.fail(fault, method="GET", path=f"/{name}", times=2)  # a pack that was listed is asked for again
        assert store.load("fx_graph", "key").bundles == ()
        s3_proxy.heal()
        s3_proxy.fail(fault, method="GET", path=f"/{name}")
        published = store.publish(make_bundle(), reread=True)
        s3_proxy.heal()
        assert published.place is not None
        assert raw.contents() == before
        assert store.load("fx_graph", "key").bundles


def test_what_another_writer_has_healed_is_not_published_again(store: Store, raw: RawBucket) -> None:
    """Two workers that found the same value unusable publish one new generation."""
    store.publish(make_bundle(build="bad"))
    store.publish(make_bundle(build="good"), after=0)
    before = raw.contents()
    assert not store.publish(make_bundle(build="other"), after=0).created
    assert raw.contents() == before


def test_a_pack_that_a_killed_writer_left_does_not_block_the_key(store: Store, raw: RawBucket) -> None:
    """A pack without a manifest, whole or not, of this writer or of one with another zstd level, is no obstacle."""
    bundle = make_bundle()
    store.publish(bundle)
    pack = raw.only("pack.tar.zst$")
    raw.delete(raw.only("manifest.json$"))
    raw.write(pack, zstandard.ZstdCompressor(level=19).compress(zstandard.decompress(raw.read(pack))))
    assert store.publish(bundle).created
    [loaded] = store.load("fx_graph", "key").bundles
    assert loaded.bundle == bundle


def test_a_pack_that_is_there_whole_is_not_sent_again(store: Store, raw: RawBucket) -> None:
    """A writer that was killed between pack and manifest is finished by the next one."""
    store.publish(make_bundle())
    raw.delete(raw.only("manifest.json$"))
    before = store.bucket.stats.objects_created
    assert store.publish(make_bundle()).created
    assert store.bucket.stats.objects_created - before == 1
    assert store.load("fx_graph", "key").bundles


def test_a_manifest_of_a_newer_format_is_a_miss_that_names_it(
    store: Store, raw: RawBucket, caplog: pytest.LogCaptureFixture
) -> None:
    """A newer tritonsync may write what this one cannot read."""
    store.publish(make_bundle())
    name = raw.only("manifest.json$")
    raw.write(name, json.dumps({**json.loads(raw.read(name)), "format": 2}).encode())
    assert store.load("fx_graph", "key").bundles == ()
    assert name in caplog.text
    assert "upgrade" in caplog.text


def test_a_manifest_in_the_place_of_another_is_a_miss(store: Store, raw: RawBucket) -> None:
    """Nobody can serve one key's bundle under another key by copying it."""
    store.publish(make_bundle("one"))
    store.publish(make_bundle("two", build="two"))
    raw.write(raw.only("fx_graph/two/.*manifest.json$"), raw.read(raw.only("fx_graph/one/.*manifest.json$")))
    assert store.load("fx_graph", "two").bundles == ()


def test_a_whole_bundle_moved_to_another_key_is_a_miss(store: Store, raw: RawBucket) -> None:
    """The manifest names its key, so moving the folder does not change what it is for."""
    store.publish(make_bundle("one"))
    for name, data in raw.contents("fx_graph/one/").items():
        raw.write(name.replace("/one/", "/two/"), data)
    assert store.load("fx_graph", "two").bundles == ()
    # Nor does it keep a writer from publishing what belongs there.
    assert store.publish(make_bundle("two")).created
    [loaded] = store.load("fx_graph", "two").bundles
    assert loaded.bundle == make_bundle("two")


def test_a_hostile_file_name_is_a_miss(store: Store, raw: RawBucket) -> None:
    """A manifest that would write outside of its folder is not accepted."""
    store.publish(make_bundle())
    name = raw.only("manifest.json$")
    raw.write(name, raw.read(name).replace(b"kernel_0.cubin", b"../../evil.cubin"))
    assert store.load("fx_graph", "key").bundles == ()


def test_only_signed_bundles_are_taken_where_keys_are_trusted(raw: RawBucket) -> None:
    """An unsigned bundle, and one of a stranger, is a miss; the signed one is published beside it and taken."""
    ours, theirs = make_key(), make_key()
    trust = TrustPolicy.from_pems([ours.public])
    reader = raw.store(trust=trust)
    raw.store().publish(make_bundle(build="unsigned"))
    raw.store(signer=Signer.from_pem(theirs.private)).publish(make_bundle(build="theirs"))
    assert reader.load("fx_graph", "key").bundles == ()
    writer = raw.store(signer=Signer.from_pem(ours.private))
    assert writer.publish(make_bundle(build="ours")).created
    [loaded] = reader.load("fx_graph", "key").bundles
    assert loaded.bundle == make_bundle(build="ours")


def test_a_signed_manifest_that_was_changed_is_a_miss(raw: RawBucket) -> None:
    """The signature covers every field."""
    key = make_key()
    store = raw.store(signer=Signer.from_pem(key.private), trust=TrustPolicy.from_pems([key.public]))
    store.publish(make_bundle())
    name = raw.only("manifest.json$")
    changed = raw.read(name).replace(b'"compile_seconds":0.0', b'"compile_seconds":9.0')
    assert changed != raw.read(name)
    raw.write(name, changed)
    assert store.load("fx_graph", "key").bundles == ()


def test_a_bundle_for_another_cpu_is_not_offered(raw: RawBucket) -> None:
    """Code that was generated for AVX-512 never reaches a host without it, and is not called unusable there."""
    bundle = dataclasses.replace(make_bundle(), requires="x86_64:avx512", variant="0123456789abcdef")
    raw.store(cpu="x86_64:avx512").publish(bundle)
    found = raw.store(cpu="x86_64:avx2").load("fx_graph", "key")
    assert (found.bundles, found.damaged) == ((), frozenset())
    assert raw.store(cpu="x86_64:avx512").load("fx_graph", "key").bundles


def test_a_key_that_does_not_fit_into_a_name_is_kept_whole(store: Store, raw: RawBucket) -> None:
    """Long keys and keys with colons or slashes are stored under their sha256 and still found."""
    for key in ("job:0:../tag", "k" * 1024, ".."):
        store.publish(make_bundle(key))
        [loaded] = store.load("fx_graph", key).bundles
        assert loaded.bundle.key == key
    assert {len(name.split("/")[2]) for name in raw.names("^bundles/")} == {64}


@pytest.mark.parametrize("kind", ["pgo", "dynamo"])
def test_the_newest_of_a_changing_kind_wins(store: Store, kind: str) -> None:
    """Of profiles and packages the last one published is loaded, even within one second."""
    # As buckets of 0.1.0 have it, for packages.
    store.publish(Bundle(kind=kind, key="job", payloads=(Payload("value.pickle", b"first"),)))
    [loaded] = store.load(kind, "job", newest=1).bundles
    assert loaded.bundle.payload("value.pickle") == b"first"
    for number in range(3):
        bundle = Bundle(kind=kind, key="job", payloads=(Payload("value.pickle", str(number).encode()),))
        assert store.publish_newest(bundle).created
        assert not store.publish_newest(bundle).created
        [loaded] = store.load(kind, "job", newest=1).bundles
        assert loaded.bundle.payload("value.pickle") == str(number).encode()


def test_autotune_results_come_with_the_key(store: Store, raw: RawBucket) -> None:
    """Results are united over writers, and one listing shows graph and results."""
    store.publish(make_bundle())
    store.publish_autotune("fx_graph", "key", {"aa.one": b'{"XBLOCK": 1}'})
    store.publish_autotune("fx_graph", "key", {"bb.two": b'{"XBLOCK": 2}'})
    before = raw.contents()
    assert not store.publish_autotune("fx_graph", "key", {"aa.one": b'{"XBLOCK": 1}'}).created
    assert raw.contents() == before
    found = store.load("fx_graph", "key")
    assert found.autotune == {"aa.one": b'{"XBLOCK": 1}', "bb.two": b'{"XBLOCK": 2}'}
    assert len(found.bundles) == 1


def timed(number: int, names: str = "aa bb") -> dict[str, bytes]:
    """Make the autotune results of a worker, which has measured times of its own."""
    return {f"{name}.one": b'{"XBLOCK": 1, "time_taken_ms": %d}' % number for name in names.split()}


def test_cold_workers_leave_one_list_of_autotune_results(raw: RawBucket) -> None:
    """What is published wins over what was timed here, so a hit costs four requests after any number of them."""
    store = raw.store()
    store.publish(make_bundle())
    created = [store.publish_autotune("fx_graph", "key", timed(number)).created for number in range(12)]
    assert created == [True] + 11 * [False]
    assert len(raw.names("/autotune/")) == 1
    reader = raw.store()
    found = reader.load("fx_graph", "key")
    assert (found.autotune, len(found.bundles)) == (timed(0), 1)
    assert reader.bucket.stats.requests == 4


def test_lists_of_writers_that_raced_cost_a_reader_nothing(raw: RawBucket) -> None:
    """Each may have missed the others' list; one is read, and the next result unites them in one that holds all."""
    raw.store().publish(make_bundle())
    alone = [raw.store() for _ in range(6)]
    for store in alone:
        store.bucket.list = lambda *_, **__: {}  # type: ignore[method-assign] # as it was when all of them looked
    names = ["aa", "bb", "cc", "aa bb", "cc dd", "aa cc dd"]
    for number, store in enumerate(alone):
        assert store.publish_autotune("fx_graph", "key", timed(number, names[number])).created
    assert len(raw.names("/autotune/")) == 6
    reader = raw.store()
    assert reader.load("fx_graph", "key").autotune == timed(5, "aa cc dd")
    assert reader.bucket.stats.requests == 4
    store = raw.store()
    assert store.publish_autotune("fx_graph", "key", timed(7, "aa ee")).created
    assert not store.publish_autotune("fx_graph", "key", timed(8, "aa bb ee")).created
    reader = raw.store()
    assert reader.load("fx_graph", "key").autotune.keys() == timed(0, "aa bb cc dd ee").keys()
    assert reader.bucket.stats.requests == 4


def test_a_signing_writer_unites_only_what_it_trusts(raw: RawBucket) -> None:
    """Results that nobody signed do not come under its signature."""
    raw.store().publish_autotune("fx_graph", "key", timed(0))
    pem, public = make_key()
    signing = raw.store(signer=Signer.from_pem(pem, "key"))
    assert signing.publish_autotune("fx_graph", "key", timed(1, "aa")).created
    reader = raw.store(trust=TrustPolicy.from_pems([public]))
    assert reader.load("fx_graph", "key").autotune == timed(1, "aa")


def test_damaged_autotune_results_are_healed(store: Store, raw: RawBucket) -> None:
    """A flipped byte in the results is a miss, and the next save publishes them again."""
    store.publish_autotune("fx_graph", "key", {"aa.one": b'{"XBLOCK": 1}'})
    raw.damage(raw.only("/autotune/"), "flip")
    assert store.load("fx_graph", "key").autotune == {}
    assert store.publish_autotune("fx_graph", "key", {"aa.one": b'{"XBLOCK": 1}'}).created
    assert store.load("fx_graph", "key").autotune == {"aa.one": b'{"XBLOCK": 1}'}


def test_what_is_here_already_is_not_fetched(store: Store, raw: RawBucket) -> None:
    """A caller that knows a manifest's content pays for the manifest only."""
    store.publish(make_bundle())
    raw.delete(raw.only("pack.tar.zst$"))
    found = store.load("fx_graph", "key", have=lambda manifest: len(manifest.kernels) == 3)
    assert (len(found.present), found.bundles) == (1, ())


@pytest.mark.parametrize("kernels", [1, 20])
def test_a_hit_costs_three_requests_whatever_its_size(raw: RawBucket, kernels: int) -> None:
    """One listing, the manifest, the pack."""
    raw.store().publish(make_bundle(kernels=kernels))
    store = raw.store()
    assert store.load("fx_graph", "key").bundles
    assert store.bucket.stats.requests == 3


def test_a_miss_costs_one_listing(raw: RawBucket) -> None:
    """One request; on GCS, where an empty listing is asked for twice, two."""
    raw.store().publish(make_bundle("other"))
    store = raw.store()
    store.load("fx_graph", "key")
    assert store.bucket.stats.requests == (2 if raw.url.startswith("gs://") else 1)


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("name", ["manifest.json", "pack.tar.zst"])
def test_trouble_with_one_variant_does_not_lose_the_others(
    status: int, name: str, s3_proxy: FaultProxy, moto_server: Server
) -> None:
    """An error about one object costs the bundle that it belongs to."""
    place = moto_server.place(endpoint=s3_proxy.url)
    with RawBucket(place.url, place.options) as raw:
        store = raw.store()
        for number in range(3):
            store.publish(make_bundle(variant=f"{number:016x}", build=str(number)))
        s3_proxy.fail(answer(status), times=1000, method="GET", path=raw.only(f"{1:016x}/.*{name}"))
        loaded = store.load("fx_graph", "key").bundles
        assert {each.bundle for each in loaded} == {
            make_bundle(variant=f"{number:016x}", build=str(number)) for number in (0, 2)
        }


def test_trouble_with_the_only_variant_is_an_error(s3_proxy: FaultProxy, moto_server: Server) -> None:
    """A miss would say that the bucket lacks it."""
    place = moto_server.place(endpoint=s3_proxy.url)
    with RawBucket(place.url, place.options) as raw:
        store = raw.store()
        store.publish(make_bundle())
        s3_proxy.fail(answer(400), times=1000, method="GET", path="pack.tar.zst")
        with pytest.raises(RemoteError, match="HTTP 400"):
            store.load("fx_graph", "key")
