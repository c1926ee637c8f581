"""A push or a pull that is killed at any moment leaves nothing that is half, and the next run finishes the work."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.raw import RawBucket
from tritonsync.format.layout import parse_manifest_name
from tritonsync.local import triton_cache
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import pull
from tritonsync.sync.push import push

#: How often each is killed; more than in a quick run with TRITONSYNC_TEST_KILLS=50.
KILLS = int(os.environ.get("TRITONSYNC_TEST_KILLS", "4"))


def run_and_kill(work: Callable[[], object], after_s: float) -> bool:
    """Run it in a forked child, kill that after some seconds, and tell whether it was still at work."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def check_bucket(raw: RawBucket) -> int:
    """Load every bundle that has a manifest, in full, and count them."""
    store = raw.store()
    places = [place for name in raw.names(r"manifest\.json$") if (place := parse_manifest_name(name))]
    for place in places:
        if place.variant == "autotune":
            continue
        manifest = store.manifest(place)
        assert manifest is not None, place
        assert store.load_content(manifest) is not None, place
    return len(places)


def remove_some(raw: RawBucket, rng: random.Random) -> None:
    """Remove whole bundles and single kernel files: the next push has work to do, and meets all kinds of rests."""
    gone = [
        prefix for prefix in sorted({name.rpartition("/")[0] for name in raw.names(r"^bundles/")}) if rng.random() < 0.5
    ]
    for name in raw.names():
        if name.startswith(tuple(gone)) or (name.startswith("kernels/") and rng.random() < 0.5):
            raw.delete(name)


def check_caches(base: Path, original: Path) -> None:
    """Every kernel folder is whole and equal to the original, or not there; nothing else lies beside them."""
    for folder in (base / "triton" / "0").glob("*"):
        if folder.name.startswith("tmp."):
            continue  # of the killed process; swept later
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            path.name for path in (original / "triton" / "0" / folder.name).iterdir()
        )
        kernel = triton_cache.collect(folder, 0)
        assert kernel is not None
        assert kernel == triton_cache.collect(original / "triton" / "0" / folder.name, 0)


@pytest.mark.slow
def test_a_killed_push_leaves_only_bundles_that_verify(raw: RawBucket, h200_vit: Path) -> None:
    """Whenever it is killed, each manifest that is there has everything it promises, and a last push completes."""
    rng = random.Random(1)
    caches = LocalCaches.at(h200_vit)

    def work() -> object:
        return push(raw.store(), caches, h200_vit / "triton", "vit")

    began = time.monotonic()
    run_and_kill(work, after_s=0.0)
    longest, killed = 0.5, 0
    for _ in range(KILLS):
        began = time.monotonic()
        still = run_and_kill(work, after_s=rng.uniform(0.0, longest))
        killed += still
        longest = max(longest, 1.5 * (time.monotonic() - began)) if still else longest
        check_bucket(raw)
        remove_some(raw, rng)
    assert killed > 0
    work()
    assert check_bucket(raw) >= 4
    pushed = push(raw.store(), caches, h200_vit / "triton", "vit")
    assert (pushed.objects_created, pushed.kernels) == (0, 15)


@pytest.mark.slow
def test_a_killed_pull_leaves_only_whole_kernels(raw: RawBucket, h200_vit: Path, tmp_path: Path) -> None:
    """Whenever it is killed, a kernel folder is whole or not there, and a last pull completes."""
    rng = random.Random(2)
    push(raw.store(), LocalCaches.at(h200_vit), h200_vit / "triton", "vit")
    killed = 0
    for number in range(KILLS):
        base = tmp_path / str(number)

        def work(base: Path = base) -> object:
            return pull(raw.store(), LocalCaches.at(base), "vit")

        killed += run_and_kill(work, after_s=rng.uniform(0.0, 0.3))
        check_caches(base, h200_vit)
        work()
        check_caches(base, h200_vit)
        assert len([path for path in (base / "triton" / "0").iterdir() if not path.name.startswith("tmp.")]) == 15
        for kind in ("fxgraph", "aotautograd"):
            originals = {path.name: path.read_bytes() for path in (h200_vit / kind).rglob("*") if path.is_file()}
            assert {p.name: p.read_bytes() for p in (base / kind).rglob("*") if p.is_file()} == originals
    assert killed > 0
