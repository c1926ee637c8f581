"""Two workers compile one kernel hash to different bytes; nobody may ever see a mixture."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest
import zstandard

from tests.bundles import make_bundle, make_kernel
from tests.raw import RawBucket
from tritonsync.format import pack as packs
from tritonsync.format.bundle import Bundle
from tritonsync.local import triton_cache
from tritonsync.sync.caches import LocalCaches, restore

BUILDS = ("one", "two")
#: Each of the dozen states, some twenty times.
ROUNDS = 250


def bundle_of(build: str, key: str) -> Bundle:
    return make_bundle(key, kernels=2, build=build)


def builds_in(folder: Path) -> set[str]:
    """Tell whose bytes lie in a kernel folder, file by file, without the code under test."""
    return {
        build for path in folder.iterdir() if not path.name.startswith("__grp__") for build in BUILDS
        if (f"of {build} " if path.suffix != ".json" else f'"build": "{build}"').encode() in path.read_bytes()
    }  # fmt: skip


def put_compile_in_progress(base: Path, build: str) -> dict[str, bytes]:
    """Leave what Triton has written half way through a compile: the first stages, no group."""
    kernel = make_kernel(0, build)
    folder = base / kernel.hash
    folder.mkdir(parents=True)
    stages = {file.name: file.payload for file in kernel.files if file.name.endswith(".ttir")}
    for name, payload in stages.items():
        (folder / name).write_bytes(payload)
    return stages


@pytest.mark.slow
def test_no_reader_ever_sees_a_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers and a reader, interleaved over every state a bucket and a folder can be in."""
    monkeypatch.setattr("tritonsync.times.SECOND_LOOK_S", 0.0)  # a folder that is a bucket shows nothing half
    raw = RawBucket(str(tmp_path / "bucket"))
    rng = random.Random(20261123)
    for number in range(ROUNDS):
        key, base = f"key{number}", tmp_path / "caches" / str(number)
        caches = LocalCaches.at(base)
        if rng.random() < 0.3:
            leave_pack_of_killed_push(raw, key, rng.choice(BUILDS))
        local = rng.choice(["empty", "complete", "in progress"])
        stages: dict[str, bytes] = {}
        if local == "complete":
            triton_cache.emit(make_kernel(0, rng.choice(BUILDS)), base / "triton" / "0")
        elif local == "in progress":
            stages = put_compile_in_progress(base / "triton" / "0", rng.choice(BUILDS))

        writers = [threading.Thread(target=write, args=(raw, build, key)) for build in rng.sample(BUILDS, 2)]
        for writer in writers:
            writer.start()
        seen = [read(raw, key, caches) for _ in range(2)]
        for writer in writers:
            writer.join()
        seen.append(read(raw, key, caches))

        assert seen[-1] is not None, f"{key} is dead"
        folder = base / "triton" / "0" / make_kernel(0).hash
        if local == "in progress":
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == stages
        else:
            assert len(builds_in(folder)) == 1, (number, local)
        assert len(builds_in(base / "triton" / "0" / make_kernel(1).hash)) == 1


def write(raw: RawBucket, build: str, key: str) -> None:
    store = raw.store()
    store.complete(store.publish(bundle_of(build, key)))


def read(raw: RawBucket, key: str, caches: LocalCaches) -> str | None:
    """Load and restore as a reader does; what is loaded, and what may be used, is one build."""
    found = raw.store().load("fx_graph", key)
    for loaded in found.bundles:
        assert loaded.bundle in [bundle_of(build, key) for build in BUILDS]
        restored = restore(loaded.bundle, caches)
        if not restored.conflicts:
            build = json.loads(loaded.bundle.kernels[0].files[2].payload)["build"]
            for kernel in loaded.bundle.kernels:
                assert builds_in(caches.folder_of(kernel, "fx_graph") / kernel.hash) == {build}
        return loaded.place.bundle_id
    return None


def leave_pack_of_killed_push(raw: RawBucket, key: str, build: str) -> None:
    """Leave the pack of a push that died before its manifest, with the bytes of another zstd level."""
    store = raw.store()
    bundle = bundle_of(build, key)
    place = store.publish(bundle).place
    assert place is not None
    raw.delete(place.manifest)
    plain = zstandard.decompress(packs.encode(bundle))
    raw.write(place.pack, zstandard.ZstdCompressor(level=19).compress(plain))
