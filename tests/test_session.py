"""A session of a program without torch: what it waits for, and what it publishes whatever happens."""

from __future__ import annotations

import dataclasses
import functools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from tests.bundles import HASHES
from tests.faultproxy import FaultProxy, answer
from tests.kernels import CompiledKernels
from tests.leftovers import leftovers, wait_until
from tests.raw import RawBucket
from tests.servers import Server
from tritonsync import times
from tritonsync.errors import AccessDeniedError, RemoteTimeoutError
from tritonsync.format.bundle import Bundle, Payload
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_workload
from tritonsync.local import triton_cache
from tritonsync.session import process
from tritonsync.session.context import plain_host
from tritonsync.session.counters import Counters
from tritonsync.session.outgoing import Outgoing
from tritonsync.session.session import Session
from tritonsync.session.uploads import CAPACITY, Uploads
from tritonsync.session.waits import Waits
from tritonsync.session.workload import entries_of
from tritonsync.settings import Settings
from tritonsync.store import Store
from tritonsync.sync import push as push_module
from tritonsync.sync.caches import LocalCaches


class Silent(LocalFileSystem):  # type: ignore[misc]
    """A folder that stops answering."""

    protocol = "silent"
    answers = threading.Event()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("silent://", "file://")))

    def find(self, path: str, **kwargs: Any) -> Any:
        self.answers.wait()
        return super().find(path, **kwargs)


@pytest.fixture
def silent() -> Iterator[type[Silent]]:
    fsspec.register_implementation(Silent.protocol, Silent, clobber=True)
    Silent.answers.set()
    yield Silent
    Silent.answers.set()


def session(url: str, folder: Path, **settings: Any) -> Session:
    return Session(Settings(url=url, inductor_dir=str(folder), workload="name", quiet=True, **settings))


def enqueue(now: Session, key: str) -> None:
    """Have something published."""
    bundle = Bundle(kind="triton", key=key, payloads=(Payload("p", b"data"),))
    now.enqueue_kernel(key, "default", Path("nowhere"), lambda: bundle, is_compiled=True)


def same(bundle: Bundle) -> Bundle:
    return bundle


def fails(exc: Exception, after: float = 0.0) -> None:
    time.sleep(after)
    raise exc


def test_what_is_fetched_ahead_is_waited_for_within_the_budget(silent: type[Silent], tmp_path: Path) -> None:
    """A bucket that falls silent after the first request costs the program what it is ready to lose, and no more."""
    now = session(f"silent://{tmp_path}/bucket", tmp_path / "inductor", budget_s=0.5)
    now._connection.store(10)
    silent.answers.clear()
    keys = ["f" + letter * 51 for letter in "abcdefgh"]
    entries = [WorkloadEntry(kind="fx_graph", key=key, variant="default") for key in keys]
    threading.Thread(target=now._incoming.fetch_ahead, args=(entries,), daemon=True).start()
    while now._incoming.under_way("fx_graph", keys[-1]) is None:
        threading.Event().wait(0.01)
    waiter = threading.Thread(target=now.look_up, args=("fx_graph", keys[-1]), daemon=True)
    waiter.start()
    waiter.join(20)
    assert not waiter.is_alive()
    for _ in range(20):  # a moment in which a lock was taken does not count, so a little may be left
        if not now.is_off:
            now.look_up("fx_graph", keys[-1]).more()
    assert now.is_off


def test_a_stopped_neighbour_does_not_use_up_the_budget(h200_vit: Path, tmp_path: Path) -> None:
    """Another process of this host holds the lock of a key for ever: the bucket is asked without, and stays on."""
    bucket, inductor = tmp_path / "bucket", tmp_path / "inductor"
    with RawBucket(str(bucket)) as raw:
        push_module.push(raw.store(), LocalCaches.at(h200_vit), h200_vit / "triton", "w")
        [key] = {name.split("/")[2] for name in raw.names("^bundles/aot_autograd/.*/manifest.json$")}
    program = (
        "import sys; from pathlib import Path; from tritonsync.local.files import host_lock\n"
        "with host_lock(Path(sys.argv[1]), sys.argv[2], timeout=10) as held: print(held, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(inductor), f"aot_autograd/{key}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as neighbour:
        try:
            assert neighbour.stdout is not None
            assert neighbour.stdout.readline() == "True\n"
            neighbour.send_signal(signal.SIGSTOP)
            now = session(str(bucket), inductor, budget_s=1.5)
            values = now.look_up("aot_autograd", key).more()
            left = now._waits.budget.left
        finally:
            neighbour.kill()
    assert len(values) == 1
    assert left > 1
    assert not now.is_off
    enqueue(now, "K")
    now.stop()
    assert now.counts.published == 1


def test_what_is_fetched_ahead_follows_the_program_to_another_folder(h200_vit: Path, tmp_path: Path) -> None:
    """A program that chooses its cache folder late has all of it there, and not only what it has asked for so far."""
    bucket, before, after = tmp_path / "bucket", tmp_path / "before", tmp_path / "after"
    with RawBucket(str(bucket)) as raw:
        push_module.push(raw.store(), LocalCaches.at(h200_vit), h200_vit / "triton", "w")
        found = {
            (name.split("/")[1], name.split("/")[2]) for name in raw.names("^bundles/(aot|fx)[^/]*/[^/]*/default/")
        }
    now = session(str(bucket), before)
    now._incoming.fetch_ahead([WorkloadEntry(kind=kind, key=key, variant="default") for kind, key in sorted(found)])
    assert (before / "fxgraph").is_dir()
    now.host = plain_host(dataclasses.replace(now.settings, inductor_dir=str(after)))
    assert {kind for kind, _ in found} == {"aot_autograd", "fx_graph"}
    [key] = [key for kind, key in found if kind == "aot_autograd"]
    now.look_up("aot_autograd", key)
    wait_until(lambda: bool(list(after.glob("fxgraph/*/*/*")) and list(after.glob("aotautograd/*/*"))))


def test_a_folder_with_graphs_in_it_is_left_as_it_is(h200_vit: Path, tmp_path: Path) -> None:
    """torch looks into saved artifacts as if they were its cache folder, and they must not grow."""
    bucket, artifact = tmp_path / "bucket", tmp_path / "artifact"
    with RawBucket(str(bucket)) as raw:
        push_module.push(raw.store(), LocalCaches.at(h200_vit), h200_vit / "triton", "w")
        [key] = {name.split("/")[2] for name in raw.names("^bundles/fx_graph/.*/default/")}
    now = session(str(bucket), tmp_path / "inductor")
    now._incoming.fetch_ahead([WorkloadEntry(kind="fx_graph", key=key, variant="default")])
    (artifact / "aotautograd").mkdir(parents=True)
    now.host = plain_host(dataclasses.replace(now.settings, inductor_dir=str(artifact)))
    now.look_up("aot_autograd", "a" * 52)
    assert now._incoming.under_way("fx_graph", key) is None
    assert [path.name for path in artifact.iterdir()] == ["aotautograd"]


def test_kernels_that_were_pushed_in_parts_come_ahead(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are here before the first is asked for, whichever bundle they were in."""
    monkeypatch.setattr("tritonsync.format.workload.MAX_PART", 1)
    with RawBucket(str(tmp_path / "bucket")) as raw:
        push_module.push(raw.store(), LocalCaches.at(tmp_path / "none"), compiled_kernels.directory, "name")
    triton = tmp_path / "t"
    now = session(str(tmp_path / "bucket"), tmp_path / "inductor", triton_dir=str(triton))
    now.begin()
    now.kernel_cache_is_known()
    assert all(now.fetch_kernel(name, "default", triton) for name in compiled_kernels.hashes)
    assert now.counts.kernels_fetched == len(compiled_kernels.hashes)
    assert now.counts.misses == 0
    now.stop()


def test_what_a_program_publishes_in_parts_comes_ahead(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of kernels make several bundles, and the next run has all of them without a question for each."""
    monkeypatch.setattr("tritonsync.format.workload.MAX_PART", 1)
    first = session(str(tmp_path / "bucket"), tmp_path / "inductor", triton_dir=str(compiled_kernels.directory))
    for kernel in compiled_kernels.kernels(None):
        bundle = Bundle(kind="triton", key=kernel.hash, kernels=(kernel,))
        folder = compiled_kernels.directory / kernel.hash
        first.enqueue_kernel(kernel.hash, "default", folder, functools.partial(same, bundle), is_compiled=True)
    first.stop()
    with RawBucket(str(tmp_path / "bucket")) as raw:
        assert len(raw.names(r"^bundles/triton/.*/part-.*/manifest\.json$")) == len(compiled_kernels.hashes) - 1
        for name in raw.names("^bundles/triton/.*/default/"):
            raw.delete(name)
    second = session(str(tmp_path / "bucket"), tmp_path / "inductor", triton_dir=str(tmp_path / "t"))
    second.begin()
    second.kernel_cache_is_known()
    assert all(second.fetch_kernel(name, "default", tmp_path / "t") for name in compiled_kernels.hashes)
    assert second.counts.misses == 0
    assert len(second._record._parts) == len(compiled_kernels.hashes) - 1
    second.stop()


def warm_session(kernels: CompiledKernels, folder: Path, **settings: Any) -> Session:
    """Begin a program whose last run used these kernels: each has a bundle, and all are in that of the workload."""
    with RawBucket(str(folder / "bucket")) as raw:
        store, entries = raw.store(), []
        for kernel in kernels.kernels(None):
            store.publish(Bundle(kind="triton", key=kernel.hash, kernels=(kernel,)))
            entries.append(WorkloadEntry(kind="triton", key=kernel.hash, variant="default"))
        listed = Workload(inductor_dir="/cache", entries=tuple(entries))
        store.publish_newest(bundle_of_workload("name", listed, kernels.kernels(None)), inline=(LIST,))
    now = session(str(folder / "bucket"), folder / "inductor", triton_dir=str(folder / "t"), **settings)
    now.begin()
    now.kernel_cache_is_known()
    return now


@pytest.mark.parametrize("is_young", [True, False], ids=["young", "old"])
def test_what_a_young_list_names_is_not_looked_for_again(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_young: bool
) -> None:
    """One new kernel among thousands is published without a question for each of the others: no `gc` took them."""
    asked: set[WorkloadEntry] = set()

    def missing(bucket: Any, entries: Collection[WorkloadEntry]) -> set[WorkloadEntry]:
        asked.update(entries)
        return set()

    monkeypatch.setattr("tritonsync.session.outgoing.missing_entries", missing)
    monkeypatch.setattr(times, "YOUNG_LIST_S", times.YOUNG_LIST_S if is_young else -60.0)
    now = warm_session(compiled_kernels, tmp_path)
    for key in compiled_kernels.hashes:
        assert now.fetch_kernel(key, "default", tmp_path / "t")
        now.note_kernel_used(key, tmp_path / "t" / key)
    enqueue(now, "K")
    now.stop()
    assert {entry.key for entry in asked} == (set() if is_young else set(compiled_kernels.hashes))
    with RawBucket(str(tmp_path / "bucket")) as raw:
        [loaded] = raw.store().load("workload", "name", newest=1).bundles
    assert {entry.key for entry in entries_of(loaded.manifest)} == {"K", *compiled_kernels.hashes}


def test_a_kernel_that_has_come_does_not_wait_for_the_others(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk under what is fetched ahead delays each kernel by its own time."""
    first, gate, emit = compiled_kernels.hashes[0], threading.Event(), triton_cache.emit

    def slow(kernel: Kernel, *rest: Any, **more: Any) -> Any:
        assert kernel.hash == first or gate.wait(60)
        return emit(kernel, *rest, **more)

    monkeypatch.setattr(triton_cache, "emit", slow)
    now = warm_session(compiled_kernels, tmp_path)
    assert now.fetch_kernel(first, "default", tmp_path / "t")
    assert now.counts.waited_s < times.AHEAD_S
    assert not now._plain_kernels._ahead_is_done
    gate.set()


def test_a_fetch_ahead_that_outlasts_the_budget_is_no_trouble_of_the_bucket(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not here after a moment is asked for by itself, and the others are not waited for again."""
    gate, load = threading.Event(), Store.load_content

    def slow(*rest: Any, **more: Any) -> Any:
        assert gate.wait(60)
        return load(*rest, **more)

    monkeypatch.setattr(Store, "load_content", slow)
    now = warm_session(compiled_kernels, tmp_path, budget_s=2.0)
    assert now.fetch_kernel(compiled_kernels.hashes[0], "default", tmp_path / "t")
    waited = now.counts.waited_s
    assert all(now.fetch_kernel(key, "default", tmp_path / "t") for key in compiled_kernels.hashes)
    assert now.counts.waited_s - waited < 0.5
    assert now.counts.misses == 0
    assert not now.is_off
    assert not now._plain_kernels._ahead_is_done
    gate.set()


@pytest.mark.parametrize("refused", ["pack", "bundle"])
def test_one_refused_object_costs_its_bundle_and_not_the_bucket(
    refused: str, s3_proxy: FaultProxy, moto_server: Server, tmp_path: Path
) -> None:
    """Another storage class, another encryption key: everything else is fetched and published as before."""
    place = moto_server.place(endpoint=s3_proxy.url)
    with RawBucket(place.url, place.options) as raw:
        store = raw.store()
        for key in ("A" * 52, "B" * 52):
            kernel = Kernel(hash=key, device=None, files=(KernelFile("k.so", b"data of " + key.encode()),))
            store.publish(Bundle(kind="triton", key=key, kernels=(kernel,)))
        s3_proxy.fail(answer(403), times=1000, method="GET", path=f"triton/{'A' * 52}/default/")
        if refused == "pack":
            s3_proxy.heal()
            s3_proxy.fail(answer(403), times=1000, method="GET", path=raw.only("triton/A.*pack.tar.zst"))
        now = session(place.url, tmp_path / "inductor", storage_options=place.options)
        assert not now.fetch_kernel("A" * 52, "default", tmp_path / "t")
        assert not now.is_off
        assert now.fetch_kernel("B" * 52, "default", tmp_path / "t")
        enqueue(now, "K")
        now.stop()
        assert now.counts.published == 1


def test_a_refused_listing_turns_the_bucket_off(s3_proxy: FaultProxy, moto_server: Server, tmp_path: Path) -> None:
    """Nothing of it can be had."""
    place = moto_server.place(endpoint=s3_proxy.url)
    s3_proxy.fail(answer(403), times=1000)
    now = session(place.url, tmp_path / "inductor", storage_options=place.options)
    assert not now.fetch_kernel("A" * 52, "default", tmp_path / "t")
    assert now.is_off
    now.stop()


def test_a_budget_that_is_spent_stops_questions_and_no_uploads(tmp_path: Path) -> None:
    """What the bucket lacks is what has to be published."""
    now = session(str(tmp_path / "bucket"), tmp_path / "inductor", budget_s=0)
    assert not now._waits.may_wait
    assert now.look_up("fx_graph", "f" * 52).more() == ()
    enqueue(now, "K")
    now.stop()
    assert now.counts.published == 1
    with RawBucket(str(tmp_path / "bucket")) as raw:
        assert len(raw.names("^bundles/triton/K/.*/manifest.json$")) == 1


def test_a_failed_upload_after_the_budget_does_not_turn_the_bucket_off(tmp_path: Path) -> None:
    """The bucket has answered the program all the time, so it is not in trouble, and the rest is published."""
    now = session(str(tmp_path / "bucket"), tmp_path / "inductor", budget_s=0.2)
    while now._waits.may_wait:
        now._waits.wait_for(lambda: time.sleep(0.05), None, bool)
    now._waits.wait_for(lambda: fails(RemoteTimeoutError("asked too late")), None, bool)
    now._outgoing._upload_failed(RemoteTimeoutError("one of many"))
    assert not now.is_off
    enqueue(now, "K")
    now.stop()
    assert now.counts.published == 1


@pytest.mark.parametrize("answered_s", [0.0, 0.15])
def test_a_budget_is_judged_by_what_most_of_it_was_spent_on(answered_s: float) -> None:
    """A last question that the budget cut short is no trouble; time-outs from the beginning are."""
    waits = Waits(0.2, Counters())
    if answered_s:
        waits.wait_for(lambda: time.sleep(answered_s), None, bool)
    while waits.may_wait:
        waits.wait_for(lambda: fails(RemoteTimeoutError("no answer"), after=waits.budget.left), None, bool)
    assert waits.is_off is not bool(answered_s)


def test_a_session_can_be_flushed_before_it_ends(tmp_path: Path) -> None:
    """Threads that outlive the main one publish too, and what is there already is not published again."""
    now = session(str(tmp_path / "bucket"), tmp_path / "inductor")
    for key in ("A", "B"):
        enqueue(now, key)
        now.flush()
        with RawBucket(str(tmp_path / "bucket")) as raw:
            assert raw.names(f"^bundles/triton/{key}/.*/manifest.json$")
    with RawBucket(str(tmp_path / "bucket")) as raw:
        before = raw.names()
        now.stop()
        assert raw.names() == before


def test_the_end_of_a_process_has_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the flush at the end of the main thread has used up is not there again at exit."""
    now = session(str(tmp_path / "bucket"), tmp_path / "inductor", flush_s=0.5)
    hangs = threading.Event()
    given: list[float] = []
    flush = Outgoing.flush

    def noting(outgoing: Outgoing, seconds: float, *rest: Any) -> None:
        given.append(seconds)
        flush(outgoing, seconds, *rest)

    monkeypatch.setattr(Outgoing, "flush", noting)

    def make() -> None:
        hangs.wait()

    for end in (now.flush, now.stop):
        now.enqueue_kernel("A", "default", Path("nowhere"), make, is_compiled=True)
        end()
    hangs.set()
    assert given[0] > 0.4
    assert given[1:] == [0]
    assert now.counts.dropped >= 2


def test_a_session_sweeps_what_killed_processes_left(tmp_path: Path) -> None:
    """Once, in the background, in the folder of each device and in Inductor's own; what is young may be in use."""
    caches = LocalCaches.at(tmp_path / "inductor")
    host = dataclasses.replace(plain_host(Settings()), caches=lambda: caches)
    now = Session(Settings(url=str(tmp_path / "bucket"), quiet=True), host)
    old, young = leftovers(caches.inductor)
    now.kernel_cache_is_known()
    wait_until(lambda: not any(path.exists() for path in old))
    assert all(path.exists() for path in young)
    again, _ = leftovers(caches.inductor)
    now.graph_caches_are_known()
    now.stop()
    assert all(path.exists() for path in again)


def test_a_helper_module_for_another_python_is_fetched_ahead(tmp_path: Path) -> None:
    """A folder that holds another Python's is not what this one needs; one that holds its own is."""
    url, base = str(tmp_path / "bucket"), tmp_path / "triton"
    variants = [f"cpython-3{minor}-x86_64-linux-gnu.so-x86_64" for minor in (98, 99)]
    entries = []
    with RawBucket(url) as raw:
        store = raw.store()
        for key, variant in zip(HASHES, variants, strict=False):
            module = KernelFile(f"cuda_utils.{variant.removesuffix('-x86_64')}", b"code")
            kernels = (Kernel(hash=key, device=None, files=(module,)),)
            store.publish(Bundle(kind="triton", key=key, variant=variant, kernels=kernels))
            entries.append(WorkloadEntry(kind="triton", key=key, variant=variant))
            (base / key).mkdir(parents=True)
            (base / key / "cuda_utils.cpython-398-x86_64-linux-gnu.so").write_bytes(b"other code")
        listed = Workload(inductor_dir="/cache", entries=tuple(entries))
        store.publish_newest(bundle_of_workload("name", listed, ()), inline=(LIST,))
    now = session(url, tmp_path / "inductor", triton_dir=str(base))
    now.kernel_cache_is_known()
    now.begin()
    wait_until(lambda: now._plain_kernels._ahead_is_done)
    assert set(now._plain_kernels._held) == {(HASHES[1], variants[1])}


def test_a_fork_waits_once_for_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred forks during a first request that hangs lose the time of one."""
    waits: list[float] = []

    class Gate:
        def acquire(self, timeout: float) -> bool:
            waits.append(timeout)
            return False

    monkeypatch.setattr(process, "_gate", Gate())
    monkeypatch.setattr(process, "_block", process._block + 1)
    for _ in range(3):
        process._close_gate()
        process._open_gate_in_parent()
    assert waits == [times.FORK_GATE_S, 0, 0]


FORK = """
import os, sys, threading, time
from tritonsync.local import triton_cache
from tritonsync.session import process

assert "filelock" not in sys.modules
began = threading.Event()
lock = threading.Lock()

def work():
    with process.no_fork():
        began.set()
        time.sleep(0.3)  # until the fork has begun, and waits
        {imported}

thread = threading.Thread(target=work)
thread.start()
began.wait()
for _ in range(2):
    if os.fork() == 0:
        print("child", lock.locked(), flush=True)
        os._exit(0)
    os.wait()
print("parent", lock.locked(), flush=True)
thread.join()
"""


@pytest.mark.parametrize(
    "imported",
    [
        "import filelock",
        "os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)",
    ],
    ids=["filelock", "a-lock"],
)
def test_a_fork_during_an_import_calls_its_hooks_in_pairs(imported: str) -> None:
    """A module whose hooks are registered while a fork waits is called before it as well as after it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK.format(imported=imported)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["child False", "child False", "parent False"]


def test_an_upload_that_met_trouble_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once, and not where the bucket has refused it."""
    monkeypatch.setattr(times, "RETRY_UPLOAD_S", 0.0)
    told: list[Exception] = []
    tries = {"passes": 0, "stays": 0, "denied": 0}
    queue = Uploads(told.append)

    def work(name: str, error: Exception, good_from: int) -> None:
        tries[name] += 1
        if tries[name] < good_from:
            raise error

    queue.submit(lambda: work("passes", RemoteTimeoutError("slow"), 2))
    queue.submit(lambda: work("stays", RemoteTimeoutError("slow"), 9))
    queue.submit(lambda: work("denied", AccessDeniedError("no"), 9))
    for _ in range(1000):
        if queue.is_idle:
            break
        threading.Event().wait(0.01)
    assert tries == {"passes": 2, "stays": 2, "denied": 1}
    assert sorted(map(str, told)) == ["no", "slow"]


def test_what_can_be_done_without_makes_room() -> None:
    """A queue full of jobs of a high rank takes those of a lower one, and a flush takes what it adds itself."""
    gate, done = threading.Event(), []
    queue = Uploads(lambda exc: None)

    def hold() -> None:
        gate.wait()

    for _ in range(2):
        queue.submit(hold)  # one for each thread
    while len(queue._running) < 2:
        threading.Event().wait(0.01)
    assert all(queue.submit(lambda: None, rank=2) for _ in range(CAPACITY))
    assert not queue.submit(lambda: None, rank=2)
    assert queue.submit(lambda: done.append("publish"), rank=0)
    gate.set()
    queue.flush(10)
    assert done == ["publish"]


def test_what_was_uploaded_before_os_exit_stays(tmp_path: Path) -> None:
    """Such an end runs nothing of ours: bundles that went out before are there, the list of the workload is not."""
    program = """
import os, sys, time
from pathlib import Path
from tritonsync.format.bundle import Bundle, Payload
from tritonsync.session.session import Session
from tritonsync.settings import Settings
from tritonsync.store import Store
bucket, caches = Path(sys.argv[1]), sys.argv[2]
now = Session(Settings(url=str(bucket), workload="w", quiet=True, inductor_dir=caches))
bundle = Bundle(kind="triton", key="K", payloads=(Payload("p", b"data"),))
now.enqueue_kernel("K", "default", Path("nowhere"), lambda: bundle, is_compiled=True)
while not list(bucket.glob("bundles/triton/*/*/*/manifest.json")):
    time.sleep(0.02)
os._exit(0)
"""
    bucket = RawBucket(str(tmp_path / "bucket"))
    command = [sys.executable, "-c", program, bucket.url, str(tmp_path / "caches")]
    subprocess.run(command, check=True, timeout=120)
    assert bucket.names("^bundles/triton/.*manifest")
    assert bucket.names("^bundles/workload/") == []
