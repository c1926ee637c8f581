"""Kernels that Triton compiles by itself: what one worker compiles, the next one does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faultproxy import FaultProxy
from tests.kernels import age
from tests.plugins.conftest import Worker
from tests.plugins.plain import PROGRAM, PlainWorker, hits, hot, plain_worker, triton_path
from tests.raw import RawBucket
from tests.servers import Server
from tritonsync.local import triton_cache
from tritonsync.session.plain_kernels import MAX_MISSES, MAX_MISSES_OF_STRANGERS
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import pull

__all__ = ["plain_worker", "triton_path"]


@pytest.fixture
def proxy(moto_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(moto_server.endpoint) as proxy:
        yield proxy


#: As many as Triton compiles in a second, of several shapes and options each.
MANY = 12


def test_many_kernels_are_hits(
    plain_worker: PlainWorker, triton_path: Path | None, moto_server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A second worker with an empty cache elsewhere compiles nothing, and its launching thread asks for nothing."""
    worker = PlainWorker(tmp_path, plain_worker.site, PROGRAM, triton=triton_path)
    place = moto_server.place(endpoint=proxy.url)
    first = worker.run("compile_kernels", MANY, bucket=place)
    assert len({kernel["hash"] for kernel in first.out["kernels"]}) == MANY
    assert not any(hits(first))
    assert first.counts["published"] == MANY
    proxy.clear()
    second = worker.run("compile_kernels", MANY, bucket=place, cache=tmp_path / "else where")
    assert hits(second) == [True] * MANY
    assert hot(second) == hot(first)
    assert second.compiled == []
    assert (second.counts["hits"], second.counts["misses"], second.counts["bytes_up"]) == (MANY, 0, 0)
    assert proxy.count(path="bundles/triton/") == 0
    assert proxy.count() == second.counts["requests"] <= 3, proxy.seen()
    # Without tritonsync the folder is a warm cache too.
    plain = worker.run("compile_kernels", MANY, cache=tmp_path / "else where")
    assert hits(plain) == [True] * MANY
    # Only what a launch needs: Triton 3.9 takes a group for a miss if a file that it lists is not there.
    trimmed = worker.run("compile_kernels", MANY, bucket=place, cache=tmp_path / "trimmed", TRITONSYNC_FILES="launch")
    assert hits(trimmed) == [True] * MANY
    assert {tuple(kernel["stages"]) for kernel in trimmed.out["kernels"]} == {("cubin",)}
    for folder in (tmp_path / "trimmed").glob("*/__grp__*.json"):
        assert len(json.loads(folder.read_text())["child_paths"]) == 2
        assert len(list(folder.parent.iterdir())) == 3


def test_other_programs_find_single_kernels(
    plain_worker: PlainWorker, moto_server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A program with another workload asks for each kernel: a listing, a manifest and a pack.

    At its end it looks for each once more: now that its own list names it, nothing may take it away any more.
    """
    place = moto_server.place(endpoint=proxy.url)
    first = plain_worker.run("compile_kernels", 3, bucket=place, TRITONSYNC_WORKLOAD="first")
    proxy.clear()
    second = plain_worker.run("compile_kernels", 3, bucket=place, TRITONSYNC_WORKLOAD="second")
    assert hits(second) == [True] * 3
    assert hot(second) == hot(first)
    assert (second.counts["hits"], second.counts["misses"]) == (3, 0)
    assert second.counts["saved_s"] > 0
    assert proxy.count("GET", "bundles/triton/") == 3 * (3 + 1), proxy.seen()
    # ... and has a list of its own now.
    proxy.clear()
    again = plain_worker.run("compile_kernels", 3, bucket=place, TRITONSYNC_WORKLOAD="second")
    assert hits(again) == [True] * 3
    assert proxy.count(path="bundles/triton/") == 0


def test_a_warm_host_asks_for_nothing_but_the_list(
    plain_worker: PlainWorker, moto_server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    """What lies in the local cache is not downloaded, and nothing is published again."""
    place = moto_server.place(endpoint=proxy.url)
    plain_worker.run("compile_kernels", 2, bucket=place, cache=tmp_path)
    proxy.clear()
    again = plain_worker.run("compile_kernels", 2, bucket=place, cache=tmp_path)
    assert hits(again) == [True] * 2
    assert (again.counts["local_hits"], again.counts["hits"], again.counts["bytes_up"]) == (2, 0, 0)
    assert proxy.count() <= 2, proxy.seen()


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "stranger"])
def test_a_miss_is_one_request_and_many_are_the_end_of_it(
    plain_worker: PlainWorker, moto_server: Server, proxy: FaultProxy, is_known: bool
) -> None:
    """A program that is new to the bucket soon stops asking; one that has changed, before all budget is spent."""
    place = moto_server.place(endpoint=proxy.url)
    if is_known:
        plain_worker.run("compile_kernels", 1, bucket=place)
    proxy.clear()
    done = plain_worker.run("look_up", MAX_MISSES + 10, bucket=place)
    assert proxy.count("GET", "bundles/triton/") == (MAX_MISSES if is_known else MAX_MISSES_OF_STRANGERS)
    assert done.counts["misses"] == MAX_MISSES + 10


def test_bundles_hold_one_kernel_each(plain_worker: PlainWorker, tmp_path: Path) -> None:
    """`triton/<kernel hash>` is that kernel; the workload's bundle has them all, and what a pull of it needs."""
    cache, bucket = tmp_path / "cache", RawBucket(str(tmp_path / "bucket"))
    plain_worker.run("compile_kernels", 2, bucket=bucket.url, cache=cache, TRITONSYNC_WORKLOAD="mine")
    hashes = sorted(folder.name for folder in cache.iterdir() if len(folder.name) == 52)
    store = bucket.store()
    for key in hashes:
        [loaded] = store.load("triton", key).bundles
        assert loaded.bundle.kernels == (triton_cache.collect(cache / key, None),)
        assert loaded.manifest.compile_seconds > 0
        assert loaded.manifest.environment.triton is not None
    [listed] = store.load("workload", "mine").bundles
    assert [kernel.hash for kernel in listed.bundle.kernels] == hashes
    pulled = pull(store, LocalCaches.at(tmp_path / "inductor", tmp_path / "pulled", by_device=False), "mine")
    assert (pulled.kernels_emitted, pulled.missing) == (2, ())
    assert hits(plain_worker.run("compile_kernels", 2, cache=tmp_path / "pulled")) == [True] * 2


def test_a_cache_that_moves_in_the_middle(plain_worker: PlainWorker, tmp_path: Path) -> None:
    """Inductor moves Triton's cache at the first graph; what came ahead is found in the new place as well."""
    bucket = tmp_path / "bucket"
    plain_worker.run("compile_kernels", 2, bucket=bucket)
    done = plain_worker.run("moved", 2, tmp_path / "moved", bucket=bucket)
    assert hits(done) == [True] * 2
    assert done.compiled == []
    # Where they lie is where the next run has them from the beginning.
    inductor = tmp_path / "inductor"
    place = inductor / "triton" / "0"
    plain_worker.run("moved", 2, place, bucket=tmp_path / "other", TORCHINDUCTOR_CACHE_DIR=str(inductor))
    shutil.rmtree(inductor)
    again = plain_worker.run("moved", 2, place, bucket=tmp_path / "other", TORCHINDUCTOR_CACHE_DIR=str(inductor))
    assert hits(again) == [True] * 2
    assert again.compiled == []


DAMAGES = (
    "no group",
    "empty group",
    "torn group",
    "list of names",
    "no binary",
    "torn binary",
    "no facts",
    "torn facts",
)


def damage(folder: Path, how: str) -> None:
    """Leave a kernel's folder as a killed process, a full disk or another manager does."""
    [group] = folder.glob("__grp__*.json")
    what, _, part = how.partition(" ")
    path = {"group": group, "of names": group}.get(part)
    if path is None:
        [path] = folder.glob("*.cubin") if part == "binary" else (f for f in folder.glob("*.json") if f != group)
    if what == "no":
        path.unlink()
    elif what == "list":
        group.write_text(json.dumps({"child_paths": list(json.loads(group.read_text())["child_paths"])}))
    else:
        path.write_bytes(b"" if what == "empty" else path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "just-now"])
def test_damaged_folders_are_repaired(
    plain_worker: PlainWorker, triton_path: Path | None, tmp_path: Path, settled: bool
) -> None:
    """Whatever is left of a kernel here: it is fetched again, or compiled where it may be another process's work."""
    worker = PlainWorker(tmp_path, plain_worker.site, PROGRAM, triton=triton_path)
    bucket, cache, count = tmp_path / "bucket", tmp_path / "cache", len(DAMAGES)
    first = worker.run("compile_kernels", count, bucket=bucket, cache=cache)
    folders = sorted(folder for folder in cache.iterdir() if len(folder.name) == 52)
    for folder, how in zip(folders, DAMAGES, strict=True):
        damage(folder, how)
        if settled:
            age(folder)
    # Not ahead, where damage is not looked for, but when Triton asks.
    second = worker.run("compile_kernels", count, bucket=bucket, cache=cache, TRITONSYNC_WORKLOAD="other")
    assert hot(second) == hot(first)
    assert (second.compiled == []) == settled, second.compiled
    assert hits(worker.run("compile_kernels", count, cache=cache)) == [True] * count


def test_without_a_bucket_it_is_the_file_manager(plain_worker: PlainWorker, tmp_path: Path) -> None:
    """With the variable set and no URL, nothing is loaded, said or done."""
    environ = plain_worker.environ(None, tmp_path)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "compile_kernels", "1"], env=environ, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert (told["manager"], told["heavy"], done.stderr) == ("TritonSyncCacheManager", [], "")
    [folder] = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 8


def test_settings_that_cannot_be_understood_are_said_once(plain_worker: PlainWorker) -> None:
    """Triton compiles as ever."""
    done = plain_worker.run("compile_kernels", 2, bucket="/tmp/never-made", TRITONSYNC_BUDGET_S="soon")
    assert hits(done) == [False] * 2
    assert done.err.count("TRITONSYNC_BUDGET_S") == 1


def test_forked_children_have_them_too(plain_worker: PlainWorker, tmp_path: Path) -> None:
    """A child that is forked after the first kernel publishes and hits."""
    bucket = tmp_path / "bucket"
    first = plain_worker.run("forked", 3, bucket=bucket)
    second = plain_worker.run("forked", 3, bucket=bucket, TRITONSYNC_WORKLOAD="another")
    assert hits(second) == [True] * 3
    assert hot(second) == hot(first)
    assert second.compiled == []


def test_compiles_of_a_graph_are_left_alone(
    plain_worker: PlainWorker, moto_server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    """While torch's bundler takes notes, and in compile workers, nothing is asked and nothing published."""
    place = moto_server.place(endpoint=proxy.url)
    plain_worker.run("compile_kernels", 2, bucket=place)
    proxy.clear()
    inside = plain_worker.run("inside_a_graph", 3, bucket=place, TRITONSYNC_WORKLOAD="other")
    assert hits(inside) == [False] * 3
    helper = tmp_path / "torch" / "_inductor" / "compile_worker" / "__main__.py"
    helper.parent.mkdir(parents=True)
    helper.symlink_to(PROGRAM)
    worker = PlainWorker(plain_worker.folder, plain_worker.site, helper)
    assert hits(worker.run("compile_kernels", 3, bucket=place, TRITONSYNC_WORKLOAD="other")) == [False] * 3
    assert proxy.count(path="bundles/triton/") + proxy.count("PUT") == 0, proxy.seen()


def test_torch_brings_it_along(plain_worker: PlainWorker, worker: Worker, tmp_path: Path) -> None:
    """In a program with torch no variable but the URL is needed; the user's own choice of a manager stays."""
    without = {"TRITON_CACHE_MANAGER": "", "TRITON_CACHE_DIR": ""}
    bucket = tmp_path / "bucket"

    def run(*arguments: object, home: str) -> list[bool]:
        environ = {**plain_worker.environ(bucket, tmp_path / home), "TRITON_HOME": str(tmp_path / home)}
        for name in without:
            del environ[name]
        done = subprocess.run(
            [sys.executable, str(PROGRAM), *map(str, arguments)],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told.get("chosen", told["manager"]) in (
            "TritonSyncCacheManager",
            "Mine",
            "<class 'tritonsync.plugins.triton.TritonSyncCacheManager'>",
        )
        if "chosen" in told:
            assert told["manager"] is None
        return [kernel["hit"] for kernel in told["kernels"]] + [told["manager"] == "Mine"]

    assert run("with_torch", 2, home="first") == [False, False, False]
    assert run("with_torch", 2, home="second") == [True, True, False]
    assert run("uninstalled", bucket, 2, home="third") == [True, True, False]
    assert run("chosen_by_the_user", home="fourth") == [False, True]


def test_assert_warm_sees_them(plain_worker: PlainWorker, tmp_path: Path) -> None:
    """`tritonsync run` brings the manager along, and counts each kernel that Triton compiled, the first one too."""

    def run(cache: str) -> subprocess.CompletedProcess[str]:
        environ = plain_worker.environ(tmp_path / "bucket", tmp_path / cache)
        del environ["TRITON_CACHE_MANAGER"]
        command = [sys.executable, "-m", "tritonsync", "run", "--assert-warm", "--"]
        return subprocess.run(
            [*command, sys.executable, str(PROGRAM), "compile_kernels", "2"],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    cold = run("cold")
    assert cold.returncode == 3, cold.stderr
    assert [line.count("was compiled") for line in cold.stderr.splitlines() if "not warm" in line] == [1, 1]
    warm = run("warm")
    assert warm.returncode == 0, warm.stderr
