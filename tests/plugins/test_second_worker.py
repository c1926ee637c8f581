"""What one worker compiles, the next one does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faultproxy import FaultProxy
from tests.plugins.conftest import PROGRAMS, Filled, Worker, keys_of
from tests.raw import RawBucket
from tests.servers import Server
from tritonsync.local.cpu import host_cpu
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import pull
from tritonsync.sync.push import push


def bundles(raw: RawBucket, kind: str) -> list[str]:
    return raw.names(rf"^bundles/{kind}/.*/manifest\.json$")


def test_forward_and_backward_come_from_the_bucket(fresh_worker: Worker, filled: Filled, plain: Filled) -> None:
    """A second worker with an empty cache compiles nothing, and has the numbers of a run without tritonsync."""
    assert filled.first.compiled
    assert filled.first.hits == (0, 0)
    second = fresh_worker.run("train", bucket=filled.path, TRITONSYNC_STRICT="1")
    assert second.compiled == []
    assert (second.hits, second.misses) == ((2, 1), (0, 0))
    assert second.out["numbers"] == filled.first.out["numbers"] == plain.first.out["numbers"]
    assert (second.counts["hits"], second.counts["misses"], second.counts["bytes_up"]) == (3, 0, 0)
    # C++ is compiled again, and nobody has measured how much of the time that was.
    assert second.counts["saved_s"] == 0
    assert "saved" not in second.err
    assert "3 hits" in second.err


def test_a_warm_host_asks_for_nothing_but_the_list(worker: Worker, filled: Filled, tmp_path: Path) -> None:
    """Values of an earlier process of this host are found by torch itself, and nothing is uploaded."""
    worker.run("train", bucket=filled.path, cache=tmp_path)
    again = worker.run("train", bucket=filled.path, cache=tmp_path, TRITONSYNC_STRICT="1")
    assert again.compiled == []
    assert (again.counts["local_hits"], again.counts["hits"], again.counts["misses"]) == (3, 0, 0)
    assert (again.counts["requests"], again.counts["bytes_up"]) == (2, 0)


def test_without_a_workload_each_graph_costs_few_requests(
    worker: Worker, filled: Filled, moto_server: Server, plain: Filled
) -> None:
    """An AOTAutograd hit and the two graphs it names: a listing, a manifest and a pack each; two to say hello."""
    with FaultProxy(moto_server.endpoint) as proxy:
        place = moto_server.place(endpoint=proxy.url)
        first = worker.run("train", bucket=place, TRITONSYNC_WORKLOAD="first", TRITONSYNC_STRICT="1")
        assert first.out["numbers"] == plain.first.out["numbers"]
        proxy.clear()
        second = worker.run("train", bucket=place, TRITONSYNC_WORKLOAD="second", TRITONSYNC_MODE="read-only")
        assert second.compiled == []
        assert second.hits == (2, 1)
        assert proxy.count() <= 3 * 3 + 2, proxy.seen()


def test_keys_are_those_of_plain_torch(filled: Filled, plain: Filled) -> None:
    """The bucket holds exactly the keys that a worker without tritonsync works out."""
    raw = filled.raw()
    for kind, keys in keys_of(plain.path).items():
        assert sorted({name.split("/")[2] for name in bundles(raw, kind)}) == keys
        assert len(bundles(raw, kind)) == len(keys)


def test_a_pushed_folder_of_plain_torch_is_a_hit(worker: Worker, plain: Filled, tmp_path: Path) -> None:
    """What `push` publishes is what the plugin asks for."""
    raw = RawBucket(str(tmp_path / "bucket"))
    push(raw.store(cpu=host_cpu()), LocalCaches.at(plain.path), plain.path / "triton", "any")
    done = worker.run("train", bucket=tmp_path / "bucket", TRITONSYNC_STRICT="1")
    assert done.compiled == []
    assert done.hits == (2, 1)


def test_plain_torch_hits_what_was_pulled(worker: Worker, filled: Filled, tmp_path: Path) -> None:
    """What the plugin published under the program's name is a warm cache for a worker without tritonsync."""
    pulled = pull(filled.raw().store(cpu=host_cpu()), LocalCaches.at(tmp_path), "plugins-programs")
    assert pulled.missing == ()
    done = worker.run("train", cache=tmp_path)
    assert (done.hits, done.misses) == ((2, 1), (0, 0))


def test_two_guard_variants_of_two_workers_serve_a_third(worker: Worker, tmp_path: Path) -> None:
    """Values of one key with other guards stand side by side, and each is found."""
    bucket = tmp_path / "bucket"
    small = worker.run("rows", 50, bucket=bucket, TRITONSYNC_STRICT="1")
    large = worker.run("rows", 200, bucket=bucket, TRITONSYNC_STRICT="1")
    assert small.compiled == large.compiled
    raw = RawBucket(str(bucket))
    assert len({name.split("/")[2] for name in bundles(raw, "aot_autograd")}) == 1
    assert len(bundles(raw, "aot_autograd")) == len(bundles(raw, "fx_graph")) == 2
    # By a record that fetches both ahead, and by the AOTAutograd value alone, which names one after the other.
    for workload in ("plugins-programs", "without-a-record"):
        third = worker.run("rows", 200, 50, bucket=bucket, TRITONSYNC_STRICT="1", TRITONSYNC_WORKLOAD=workload)
        assert third.compiled == []
        assert third.out["numbers"] == large.out["numbers"] + small.out["numbers"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing_publish_and_hit(
    worker: Worker, plain: Filled, tmp_path: Path, method: str
) -> None:
    """A child that compiles publishes before it ends, though it leaves by os._exit; the next one's child hits."""
    bucket = tmp_path / "bucket"
    first = worker.run("children", method, bucket=bucket, TRITONSYNC_STRICT="1")
    assert first.compiled
    second = worker.run("children", method, bucket=bucket, TRITONSYNC_STRICT="1")
    assert second.compiled == []
    assert second.out["numbers"] == first.out["numbers"] == plain.first.out["numbers"]


def test_values_that_hold_their_graphs(worker: Worker, plain: Filled, tmp_path: Path) -> None:
    """With bundled_autograd_cache one value holds it all."""
    bucket = tmp_path / "bucket"
    worker.run("bundled", bucket=bucket, TRITONSYNC_STRICT="1")
    assert bundles(RawBucket(str(bucket)), "fx_graph") == []
    second = worker.run("bundled", bucket=bucket, TRITONSYNC_STRICT="1")
    assert second.compiled == []
    assert second.out["aot_hit"] == 1
    assert second.out["numbers"] == plain.first.out["numbers"]


def test_a_mega_cache_is_not_published_again(worker: Worker, tmp_path: Path) -> None:
    """What torch loads from a Mega-Cache blob was made elsewhere, and makes no upload here."""
    worker.run("mega_save", tmp_path / "blob")
    done = worker.run("mega_load", tmp_path / "blob", bucket=tmp_path / "bucket", TRITONSYNC_STRICT="1")
    assert done.hits == (2, 1)
    assert done.counts["local_hits"] == 3
    assert RawBucket(str(tmp_path / "bucket")).names("^bundles/(fx|aot)") == []


def test_profiles_make_the_next_worker_compile_once(worker: Worker, tmp_path: Path) -> None:
    """A worker that begins with the profile of another one compiles for changing sizes at once."""
    bucket = tmp_path / "bucket"
    first = worker.run("profile", 5, 6, bucket=bucket, TORCH_COMPILE_JOB_ID="job", TRITONSYNC_STRICT="1")
    assert first.out["graphs"] == 2
    assert len(bundles(RawBucket(str(bucket)), "pgo")) == 1
    second = worker.run("profile", 7, 8, bucket=bucket, TORCH_COMPILE_JOB_ID="job", TRITONSYNC_STRICT="1")
    assert second.out["graphs"] == 1


def test_assert_warm_tells_a_cold_run_from_a_warm_one(worker: Worker, filled: Filled, tmp_path: Path) -> None:
    """`tritonsync run` ends with 3 and the names of the graphs, or with 0."""

    def run(bucket: Path, cache: Path) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "tritonsync",
            "run",
            "--assert-warm",
            "--report",
            str(tmp_path / "report.json"),
        ]
        environ = worker.environ(bucket, cache)
        return subprocess.run(
            [*command, "--", sys.executable, str(PROGRAMS), "train"],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    warm = run(filled.path, tmp_path / "warm")
    assert warm.returncode == 0, warm.stderr
    assert '"warm": true' in (tmp_path / "report.json").read_text()
    cold = run(tmp_path / "bucket", tmp_path / "cold")
    assert cold.returncode == 3, cold.stderr
    for key in keys_of(tmp_path / "cold")["fx_graph"]:
        assert f"graph {key} was compiled" in cold.stderr
    shutil.rmtree(tmp_path / "cold")
