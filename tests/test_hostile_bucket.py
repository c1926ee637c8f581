"""A bucket that somebody else may write: what it may cost a reader, and what it must not hide from one.

Peak memory is that of a child process, measured by the system; the bounds leave room for Python itself (40 MB).
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import msgspec
import pytest

from tests.bundles import make_bundle, make_kernel
from tests.faultproxy import FaultProxy, answer
from tests.keys import make_key
from tests.raw import RawBucket
from tests.servers import Server
from tritonsync.errors import FormatError, RemoteError
from tritonsync.format import manifest as manifests
from tritonsync.format.bundle import Bundle, Digest, Payload
from tritonsync.format.kernel import content_id
from tritonsync.format.manifest import Environment, FileEntry, KernelEntry, Manifest
from tritonsync.format.signing import Signer, TrustPolicy
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_workload
from tritonsync.store import Store
from tritonsync.store.catalog import Catalog
from tritonsync.store.verify import verify
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import pull

GIB = 1024**3
MIB = 1024**2
KEY = make_key()
SIGNER = Signer.from_pem(KEY.private)
TRUST = TrustPolicy.from_pems([KEY.public])


@pytest.fixture
def folder(tmp_path: Path) -> RawBucket:
    return RawBucket(str(tmp_path / "bucket"))


@pytest.fixture
def signed(folder: RawBucket) -> Store:
    """A store that signs, and trusts nobody else."""
    return folder.store(signer=SIGNER, trust=TRUST)


def grow(folder: RawBucket, name: str, size: int) -> None:
    """Replace an object by one of so many bytes, which take no room on the disk."""
    path = Path(folder.url, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.truncate(size)


def run_child(script: str) -> tuple[str, int]:
    """Run Python; return what it printed, and its peak memory in bytes."""
    # VmHWM: what a child inherits of its parent's peak in `ru_maxrss` is not its own.
    measure = "print(next(int(x.split()[1]) * 1024 for x in open('/proc/self/status') if x.startswith('VmHWM')))"
    child = subprocess.run(
        [sys.executable, "-c", f"{textwrap.dedent(script)}\n{measure}"], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    printed, _, peak = child.stdout.strip().rpartition("\n")
    return printed, int(peak)


def big_manifest(number: int, size: int) -> Manifest:
    """Make the valid manifest of a bundle with so many files that it has about `size` bytes."""
    files = tuple(FileEntry(name=f"f{n:06}", size=n, sha256=f"{n:064x}") for n in range(size // 103))
    kernel = KernelEntry(
        hash="K",
        name="k",
        device=0,
        content_id=content_id((file.name, file.size, file.sha256) for file in files),
        files=files,
    )
    bundle = manifests.describe(
        Bundle("fx_graph", "key"), created="2026-11-23T03:44:55Z", environment=Environment(), pack=None
    )
    pack = Digest(size=10**9, sha256=f"{number:064x}")
    return msgspec.structs.replace(bundle, kernels=(kernel,), pack=pack)


@pytest.mark.parametrize("pattern", ["pack", "cubin", "payloads/", "manifest", "tritonsync.json"])
def test_a_replaced_object_of_three_gib_costs_no_memory(folder: RawBucket, pattern: str) -> None:
    """Its size was promised, or listed, so it is a miss, or made up for, and is not read."""
    store = folder.store()
    store.bucket.probe()
    store.complete(store.publish(make_bundle(kernels=1)))
    if pattern in ("cubin", "payloads/"):
        folder.delete(folder.only("pack"))
    grow(folder, folder.only(pattern), 3 * GIB)
    printed, peak = run_child(
        f"""
        from tritonsync.errors import FormatError
        from tritonsync.remote.bucket import Bucket
        from tritonsync.store import Store
        from tritonsync.store.catalog import Catalog
        from tritonsync.store.verify import verify
        bucket = Bucket({folder.url!r})
        print(len(Store(bucket).load("fx_graph", "key").bundles))
        verify(Catalog(bucket))
        list(Catalog(bucket).entries())
        try:
            bucket.probe()
        except FormatError:
            print("no format")
        """
    )
    expected = {"pack": "1", "cubin": "0", "payloads/": "0", "manifest": "0", "tritonsync.json": "1\nno format"}
    assert printed == expected[pattern]
    assert peak < 300 * MIB


def test_manifests_have_a_total(folder: RawBucket, signed: Store) -> None:
    """64 newer ones of 8 MB, and one of 58 MB, are neither all read nor in the way of a good one."""
    signed.publish(make_bundle())
    for number in range(65):
        name = f"bundles/fx_graph/key/default/{number:032x}/manifest.json"
        grow(folder, name, 58 * MIB if number == 64 else 8 * MIB)
    printed, peak = run_child(
        f"""
        import time
        from tritonsync.format.signing import TrustPolicy
        from tritonsync.remote.bucket import Bucket
        from tritonsync.store import Store
        bucket = Bucket({folder.url!r})
        began = time.monotonic()
        found = Store(bucket, trust=TrustPolicy.from_pems([{KEY.public!r}])).load("fx_graph", "key")
        print(len(found.bundles), bucket.stats.bytes_down < {80 * MIB}, time.monotonic() - began < 20)
        """
    )
    assert printed == "1 True True"
    assert peak < 400 * MIB


def test_a_sweep_holds_few_large_manifests_at_a_time(folder: RawBucket) -> None:
    """64 of 8 MB, which it keeps until it knows that nobody wants them back, all go and are never all in memory."""
    for number in range(64):
        grow(folder, f"bundles/fx_graph/key{number}/default/{number:032x}/manifest.json", 8 * MIB)
    printed, peak = run_child(
        f"""
        import time
        from tritonsync.remote.bucket import Bucket
        from tritonsync.store.catalog import Catalog
        from tritonsync.store.retention import Policy, mark
        from tritonsync.store.sweep import sweep
        catalog = Catalog(Bucket({folder.url!r}))
        plan = mark(catalog, Policy(older_than=0.0, grace=0.0), clock=lambda: time.time() + 86400)
        print(sweep(catalog, plan).bundles)
        """
    )
    assert (printed, folder.names()) == ("64", [])
    assert peak < 300 * MIB


@pytest.mark.parametrize("sizes", [[16] * 8, [8] * 64, [1] * 100, [16, 8, 4, 2, 1] * 5])
def test_large_variants_leave_room_for_a_small_one(folder: RawBucket, signed: Store, sizes: list[int]) -> None:
    """Whatever sizes the newer ones have, together they are not all that a lookup reads."""
    signed.publish(make_bundle())
    for number, size in enumerate(sizes):
        grow(folder, f"bundles/fx_graph/key/{number:016x}/{number:032x}/manifest.json", size * MIB)
    before = signed.bucket.stats.bytes_down
    [loaded] = signed.load("fx_graph", "key").bundles
    assert loaded.bundle == make_bundle()
    assert signed.bucket.stats.bytes_down - before < 80 * MIB


def test_packs_that_promise_too_much_are_refused_at_once(folder: RawBucket) -> None:
    """Eight packs of 33 kB that promise 1 GiB each cost nothing; the ratio gives them away."""
    pack = bytes(33_000)
    for number in range(8):
        payload = FileEntry(name="p", size=GIB, sha256=f"{number:064x}")
        plain = big_manifest(number, 0)
        manifest = msgspec.structs.replace(
            plain,
            variant=f"{number:016x}",
            kernels=(),
            payloads=(payload,),
            pack=Digest(size=len(pack), sha256=f"{number:064x}"),
        )
        place = manifest.place
        for name, data in ((place.manifest, manifests.encode(manifest)), (place.pack, pack)):
            Path(folder.url, name).parent.mkdir(parents=True, exist_ok=True)
            folder.write(name, data)
    began = time.monotonic()
    assert folder.store().load("fx_graph", "key").bundles == ()
    assert time.monotonic() - began < 10
    with pytest.raises(FormatError, match="1000 times as many are allowed"):
        manifests.decode(folder.read(place.manifest), place.manifest)


def test_one_load_promises_no_more_than_one_bundle_may(
    folder: RawBucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is above the total is left out, with a warning; the newest come first."""
    store = folder.store()
    for number in range(4):
        store.publish(make_bundle(variant=f"{number:016x}", build=str(number)))
    size = sum(kernel.size for kernel in make_bundle().kernels) + len("value of 0")
    monkeypatch.setattr("tritonsync.store.reader.MAX_LOAD_BYTES", 2 * size + 100)
    assert len(store.load("fx_graph", "key").bundles) == 2
    assert "in one load" in caplog.text


def test_work_on_this_host_counts_like_waiting(folder: RawBucket) -> None:
    """A lookup whose time is over ends between two manifests, although the bucket answers at once."""
    big = big_manifest(0, 4 * MIB)
    for number in range(6):
        manifest = msgspec.structs.replace(big, pack=Digest(size=10**9, sha256=f"{number:064x}"))
        name = manifest.place.manifest
        Path(folder.url, name).parent.mkdir(parents=True)
        folder.write(name, manifests.encode(manifest))
    with pytest.raises(RemoteError, match=r"no time left|no answer"):
        folder.store().load("fx_graph", "key", timeout=0.6)


def junk(folder: RawBucket, kind: str, key: str, variant: str, number: int = 0) -> None:
    """Put something in the place of a bundle, newer than all that is there."""
    name = f"bundles/{kind}/{key}/{variant}/{number:032x}/manifest.json"
    Path(folder.url, name).parent.mkdir(parents=True, exist_ok=True)
    folder.write(name, b'{"format":1}')


@pytest.mark.parametrize("count", [8, 9, 100])
def test_rivals_that_nobody_signed_hide_nothing(folder: RawBucket, signed: Store, count: int) -> None:
    """However many are newer; and a writer finds the good one too, and adds nothing."""
    signed.publish(make_bundle())
    for number in range(count):
        junk(folder, "fx_graph", "key", "default", number)
    [loaded] = signed.load("fx_graph", "key").bundles
    assert loaded.bundle == make_bundle()
    before = folder.names()
    assert not signed.publish(make_bundle(build="other")).created
    assert folder.names() == before


@pytest.mark.parametrize("newest", [1, 8])
def test_variants_that_nobody_signed_hide_nothing(folder: RawBucket, signed: Store, newest: int) -> None:
    """64 newer ones do not use up the number that a load looks at."""
    signed.publish(make_bundle())
    for number in range(64):
        junk(folder, "fx_graph", "key", f"{number:016x}")
    [loaded] = signed.load("fx_graph", "key", newest=newest).bundles
    assert loaded.bundle == make_bundle()


def test_autotune_results_that_nobody_signed_hide_nothing(folder: RawBucket, signed: Store) -> None:
    """They are rivals like all others."""
    signed.publish(make_bundle())
    signed.publish_autotune("fx_graph", "key", {"aa.one": b'{"XBLOCK": 1}'})
    for number in range(20):
        junk(folder, "fx_graph", "key", "autotune", number)
    found = signed.load("fx_graph", "key")
    assert (len(found.bundles), found.autotune) == (1, {"aa.one": b'{"XBLOCK": 1}'})


@pytest.mark.parametrize("variant", ["0000", "0000000000", "-1", "00000000000", "0000000001"])
def test_no_variant_can_claim_to_be_the_newest_for_ever(folder: RawBucket, signed: Store, variant: str) -> None:
    """Neither reading nor publishing of a workload stops at a list that nobody signed, or whose name is no time."""
    for inductor_dir in ("/old", "/new"):
        signed.publish_newest(
            bundle_of_workload("run", Workload(inductor_dir=inductor_dir, entries=())), inline=(LIST,)
        )
        junk(folder, "workload", "run", variant)
        [loaded] = signed.load("workload", "run", newest=1).bundles
        assert json.loads(loaded.bundle.payload(LIST) or b"")["inductor_dir"] == inductor_dir
    listed = {
        entry.place.variant
        for entry in Catalog(folder.bucket(), trust=TRUST).entries(kind="workload")
        if not entry.problem
    }
    assert len(listed) == 2
    assert all(len(name) == 10 and abs(9_999_999_999 - int(name) - time.time()) < 100 for name in listed)


def test_a_workload_is_listed_by_its_newest_good_record(folder: RawBucket, signed: Store) -> None:
    """What a stranger wrote after it does not change what `ls` says."""
    signed.publish(make_bundle("one"))
    entry = WorkloadEntry(kind="fx_graph", key="one", variant="default")
    listed = bundle_of_workload("run", Workload(inductor_dir="/x", entries=(entry,)))
    signed.publish_newest(listed, inline=(LIST,))
    junk(folder, "workload", "run", "0000000000")
    catalog = Catalog(folder.bucket(), trust=TRUST)
    [found] = list(catalog.entries(kind="fx_graph"))
    assert found.workloads == ("run",)
    missing = WorkloadEntry(kind="fx_graph", key="two", variant="default")
    signed.publish_newest(
        bundle_of_workload("run", Workload(inductor_dir="/x", entries=(entry, missing))), inline=(LIST,)
    )
    problems = verify(Catalog(folder.bucket(), trust=TRUST)).incomplete
    assert [problem.name for problem in problems if "/two/" in problem.name] == ["bundles/fx_graph/two/default/"]


def test_names_that_no_writer_makes_are_not_looked_at(folder: RawBucket, signed: Store) -> None:
    """They cost no request."""
    signed.publish(make_bundle())
    for number, variant in enumerate(("Default", "0" * 15, "0" * 17, "g" * 16, "autotunes", "0123456789")):
        junk(folder, "fx_graph", "key", variant, number)
    bundle = Path(folder.url, "bundles/fx_graph/key/default")
    (bundle / "short").mkdir()
    (bundle / "short" / "manifest.json").write_bytes(b"{}")
    before = signed.bucket.stats.requests
    assert len(signed.load("fx_graph", "key").bundles) == 1
    assert signed.bucket.stats.requests - before == 3


def test_many_refusals_are_a_few_lines(folder: RawBucket, signed: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A hundred of them are three, and one that says how many."""
    for number in range(100):
        junk(folder, "fx_graph", "key", "default", number)
    caplog.set_level(logging.WARNING)
    signed.load("fx_graph", "key")
    assert len(caplog.records) == 4
    assert "100 bundles below bundles/fx_graph/key/ in all" in caplog.records[-1].getMessage()


def test_a_bad_entry_of_a_workload_does_not_end_a_pull(
    folder: RawBucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is one warning; what else is listed arrives, and nothing is touched outside of the cache."""
    store = folder.store()
    kernel = make_kernel(0, device=None)
    store.publish(Bundle("triton", kernel.hash, kernels=(kernel,)))
    entries = [
        {"kind": "triton", "key": key, "variant": "default"}
        for key in ("../../../etc", "a\0b", "x" * 5000, kernel.hash, "..")
    ]
    text = json.dumps({"inductor_dir": "/x", "entries": entries}).encode()
    store.publish_newest(Bundle("workload", "run", payloads=(Payload(LIST, text),)), inline=(LIST,))
    pulled = pull(store, LocalCaches.at(tmp_path / "cache"), "run")
    assert (pulled.kernels_emitted, pulled.missing) == (1, ())
    assert [record.getMessage()[:36] for record in caplog.records] == ["4 entries of workload run are left o"]


def test_a_list_that_cannot_be_read_makes_room_for_the_one_before(folder: RawBucket, tmp_path: Path) -> None:
    """A pull takes the newest that it can use."""
    store = folder.store()
    store.publish_newest(bundle_of_workload("run", Workload(inductor_dir="/old", entries=())), inline=(LIST,))
    store.publish_newest(Bundle("workload", "run", payloads=(Payload(LIST, b"[" * 100_000),)), inline=(LIST,))
    assert pull(store, LocalCaches.at(tmp_path / "cache"), "run").written_at == "/old"


def test_bad_text_in_a_pickle_costs_little_more_than_its_bytes() -> None:
    """The error says where, and neither holds nor formats the text."""
    printed, peak = run_child(
        """
        from tritonsync.errors import ValueSplitError
        from tritonsync.format.pickle_reader import read
        size = 100 * 1024 * 1024
        pickle = b"\\x80\\x04\\x8d" + size.to_bytes(8, "little") + b"\\xff" * size + b"."
        try:
            read(pickle)
        except ValueSplitError as exc:
            print(str(exc), exc.__context__)
        """
    )
    assert printed == "not a pickle that can be read, at byte 104857611: invalid start byte None"
    assert peak < 500 * MIB


def test_the_measure_measures() -> None:
    """A child that takes 200 MB is seen to take them."""
    _, peak = run_child("data = bytearray(200 * 1024 * 1024)")
    assert 200 * MIB < peak < 300 * MIB


def test_one_variant_that_cannot_be_read_does_not_cost_the_others(s3_proxy: FaultProxy, moto_server: Server) -> None:
    """An error of one manifest is that of its variant, unless there is nothing else."""
    place = moto_server.place(endpoint=s3_proxy.url)
    with RawBucket(place.url, place.options) as raw:
        store = raw.store()
        for variant in ("default", "0123456789abcdef"):
            store.publish(make_bundle(variant=variant, build=variant))
        for fault, wanted in ((answer(501), 1), (answer(403), 1)):
            s3_proxy.fail(fault, method="GET", path="/default/", times=9)
            assert len(store.load("fx_graph", "key").bundles) == wanted
            s3_proxy.heal()
        s3_proxy.fail(answer(501), method="GET", path="/manifest.json", times=9)
        with pytest.raises(RemoteError, match="501"):
            store.load("fx_graph", "key")


def test_a_bundle_that_fails_leaves_its_share_of_a_load(folder: RawBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be loaded is not counted."""
    store = folder.store()
    for number in range(2):
        store.publish(make_bundle(variant=f"{number:016x}", build=str(number)))
    folder.damage(folder.only("0000000001/.*pack"), "flip")
    monkeypatch.setattr("tritonsync.store.reader.MAX_LOAD_BYTES", 1 + sum(k.size for k in make_bundle().kernels) + 10)
    [loaded] = store.load("fx_graph", "key").bundles
    assert loaded.bundle == make_bundle(variant=f"{0:016x}", build="0")
