"""Many processes of one host, forks and threads share one bucket and one cache folder."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest

from tests.bundles import make_bundle
from tests.raw import RawBucket
from tritonsync.local import triton_cache
from tritonsync.store import Store
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import Pulled, pull
from tritonsync.sync.push import push

PROCESSES = 12


def pull_into(raw: RawBucket, base: Path, results: multiprocessing.Queue[Pulled]) -> None:
    results.put(pull(raw.store(), LocalCaches.at(base), "vit"))


@pytest.mark.slow
def test_many_processes_pull_into_one_folder(raw: RawBucket, h200_vit: Path, tmp_path: Path) -> None:
    """Each kernel is written once and whole, nothing is left beside them, and each pack or copy is downloaded once."""
    push(raw.store(), LocalCaches.at(h200_vit), h200_vit / "triton", "vit")
    fork = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[Pulled] = fork.Queue()
    processes = [fork.Process(target=pull_into, args=(raw, tmp_path, results)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    pulled = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0

    assert sum(one.kernels_emitted for one in pulled) == 15
    assert all(one.kernels_emitted + one.kernels_present == 15 for one in pulled)
    folders = sorted((tmp_path / "triton" / "0").iterdir())
    assert [folder.name for folder in folders] == sorted(path.name for path in (h200_vit / "triton" / "0").iterdir())
    for folder in folders:
        assert triton_cache.collect(folder, 0) == triton_cache.collect(h200_vit / "triton" / "0" / folder.name, 0)
    assert not [path for path in tmp_path.rglob("*") if "tmp." in path.name]
    packs = sum(len(raw.read(name)) for name in raw.names(r"pack\.tar\.zst$"))
    copies = len(raw.read(raw.only("start.tar$")))
    everything = packs + copies + PROCESSES * sum(len(raw.read(name)) for name in raw.names(r"manifest\.json$"))
    assert packs <= sum(one.bytes_downloaded for one in pulled) <= everything


def load_in_child(store: Store, results: multiprocessing.Queue[bool]) -> None:
    results.put(store.load("fx_graph", "key").bundles[0].bundle == make_bundle())


def test_a_store_that_was_used_works_in_a_forked_child(raw: RawBucket) -> None:
    """Compile workers and data loaders fork after the parent has opened connections."""
    store = raw.store()
    store.publish(make_bundle())
    assert store.load("fx_graph", "key").bundles
    fork = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[bool] = fork.Queue()
    children = [fork.Process(target=load_in_child, args=(store, results)) for _ in range(3)]
    for child in children:
        child.start()
    assert [results.get(timeout=60) for _ in children] == [True] * 3
    for child in children:
        child.join()
    assert store.load("fx_graph", "key").bundles


def test_a_store_works_from_many_threads(raw: RawBucket) -> None:
    """Sixteen threads save and load through one store."""
    store = raw.store()
    loaded: list[bool] = []

    def work(number: int) -> None:
        bundle = make_bundle(f"key{number % 4}")
        store.complete(store.publish(bundle))
        loaded.append(store.load("fx_graph", bundle.key).bundles[0].bundle == bundle)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == [True] * 16
