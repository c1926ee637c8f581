"""Cache folders of other libraries through a bucket: fetched where they fit, and a miss where they do not."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.folders import BINARY, HEX, LAYOUTS, LIBRARIES, VARIABLES, contents, document, install, make_folder, write
from tests.keys import make_key
from tests.raw import RawBucket
from tritonsync.errors import LocalCacheError, SettingsError
from tritonsync.format.bundle import FOLDER, Bundle, Payload
from tritonsync.format.folder import LIST, FolderFile, bundle_of_folder
from tritonsync.format.signing import Signer, TrustPolicy
from tritonsync.local import identity
from tritonsync.local.folder_cache import Place
from tritonsync.local.gpu import Gpus
from tritonsync.local.presets import PRESETS
from tritonsync.store import Store
from tritonsync.store.catalog import Catalog
from tritonsync.store.retention import Policy, mark
from tritonsync.store.sweep import sweep
from tritonsync.store.usage import usage
from tritonsync.store.verify import verify
from tritonsync.sync.folders import Folder, own_folder, preset_folder, pull_folder, push_folder

DAY = 86_400.0
FACTS = {"gpu": "NVIDIA H200", "nvcc": "13.0.88"}


def folder_at(path: Path, preset: str = "deepgemm", **facts: str) -> Folder:
    return Folder(preset, Place(path, PRESETS[preset].parts, PRESETS[preset].variable), {**FACTS, **facts})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return RawBucket(str(tmp_path / "bucket")).store()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Folder]:
    """Return a preset's folder on a host with an H200, as its library, driver, GPU and rank make it."""

    def at(
        path: Path, preset: str, *, gpu: str = "NVIDIA H200", driver: str = "550.54", code: str = "one", **more: str
    ) -> Folder:
        for name in LIBRARIES[preset]:
            install(name, tmp_path / f"site-{code}", monkeypatch, code=code)
        monkeypatch.setattr(identity, "host_gpus", lambda: Gpus((gpu,), driver))
        return preset_folder(preset, {VARIABLES[preset]: str(path), **more})

    return at


def test_a_folder_goes_through_every_bucket(raw: RawBucket, tmp_path: Path) -> None:
    """And back, byte for byte; a second push writes nothing, and a second pull does not fetch the files."""
    store = raw.store()
    here = folder_at(make_folder("deepgemm", tmp_path / "here"))
    pushed = push_folder(store, here)
    assert (pushed.files, pushed.files_new, pushed.created) == (6, 6, True)
    assert not push_folder(store, here).created
    assert len(raw.names("^bundles/")) == 2
    there = folder_at(tmp_path / "there")
    pulled = pull_folder(store, there)
    assert (pulled.files, pulled.written) == (6, 6)
    assert contents(there.place.path) == LAYOUTS["deepgemm"]
    before = store.bucket.stats.bytes_down
    again = pull_folder(store, there)
    assert (again.files, again.written) == (6, 0)
    assert store.bucket.stats.bytes_down - before < 4096
    assert verify(Catalog(store.bucket)).bad == ()


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_each_preset_goes_to_a_host_like_this(
    preset: str, store: Store, host: Callable[..., Folder], tmp_path: Path
) -> None:
    """A folder of its layout, without what does not travel."""
    push_folder(store, host(make_folder(preset, tmp_path / "here"), preset))
    assert pull_folder(store, host(tmp_path / "there", preset)).written == len(LAYOUTS[preset])
    assert contents(tmp_path / "there") == LAYOUTS[preset]


@pytest.mark.parametrize(
    ("preset", "other", "said"),
    [
        ("cuda-driver", {"driver": "570.86"}, "driver 550.54 -> 570.86"),
        ("flashinfer-autotune", {"driver": "570.86"}, "driver 550.54 -> 570.86"),
        *((preset, {"gpu": "NVIDIA H100"}, "gpu NVIDIA H200 -> NVIDIA H100") for preset in sorted(PRESETS)),
        *((preset, {"code": "two"}, f"{LIBRARIES[preset][0]} ") for preset in sorted(PRESETS) if LIBRARIES[preset]),
        ("helion", {"RANK": "1", "WORLD_SIZE": "2"}, "rank 0 of 1 -> 1 of 2"),
        ("flashinfer-autotune", {"RANK": "0", "WORLD_SIZE": "2"}, "rank 0 of 1 -> 0 of 2"),
    ],
)
def test_what_does_not_fit_is_a_miss(
    preset: str, other: dict[str, str], said: str, store: Store, host: Callable[..., Folder], tmp_path: Path
) -> None:
    """Of another driver, GPU, build of the library, or rank; and it is said what differs."""
    push_folder(store, host(make_folder(preset, tmp_path / "here"), preset))
    pulled = pull_folder(store, host(tmp_path / "there", preset, **other))
    assert (pulled.files, pulled.written) == (0, 0)
    assert any(line.startswith(said) for line in pulled.nearest)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("preset", ["deepgemm", "tilelang"])
def test_another_compiler_is_a_miss(preset: str, store: Store, host: Callable[..., Folder], tmp_path: Path) -> None:
    """Of CUDA, by the version that nvcc tells."""
    for version in ("12.9.86", "13.0.88"):
        nvcc = write(tmp_path / version, {"bin/nvcc": f"#!/bin/sh\necho V{version}\n".encode()}) / "bin" / "nvcc"
        nvcc.chmod(0o755)
    old, new = str(tmp_path / "12.9.86"), str(tmp_path / "13.0.88")
    push_folder(store, host(make_folder(preset, tmp_path / "here"), preset, CUDA_HOME=old))
    pulled = pull_folder(store, host(tmp_path / "there", preset, CUDA_HOME=new))
    assert (pulled.files, pulled.nearest) == (0, ("nvcc 12.9.86 -> 13.0.88",))


def test_a_folder_of_ones_own_is_under_its_key(store: Store, tmp_path: Path) -> None:
    """Another key, or another name, is a miss."""
    here = write(tmp_path / "here", {"a/b.bin": b"1", "a/b.lock": b"2"})
    push_folder(store, own_folder("mine", here, "cuda 13, H200"))
    for name, key in (("mine", "cuda 12, H200"), ("yours", "cuda 13, H200")):
        assert pull_folder(store, own_folder(name, tmp_path / "there", key)).files == 0
    assert pull_folder(store, own_folder("mine", tmp_path / "there", "cuda 13, H200")).written == 1
    assert contents(tmp_path / "there") == {"a/b.bin": b"1"}
    for name, key in (("mine", ""), ("a/b", "key"), ("", "key"), ("..", "key")):
        with pytest.raises(SettingsError):
            own_folder(name, here, key)


def test_the_nearest_is_the_one_that_differs_least(store: Store, tmp_path: Path) -> None:
    """Of the same name."""
    here = make_folder("deepgemm", tmp_path / "here")
    push_folder(store, folder_at(here, gpu="NVIDIA H100", nvcc="12.8"))
    push_folder(store, folder_at(here, gpu="NVIDIA H100"))
    push_folder(store, folder_at(make_folder("tilelang", tmp_path / "t"), "tilelang", gpu="NVIDIA B200"))
    assert pull_folder(store, folder_at(tmp_path / "there")).nearest == ("gpu NVIDIA H100 -> NVIDIA H200",)
    assert pull_folder(store, folder_at(tmp_path / "there", "helion")).nearest == ()


def test_writers_add_to_each_other(store: Store, tmp_path: Path) -> None:
    """What is published wins, so that a hundred workers that compile the same publish it once."""
    one = write(tmp_path / "one", {f"{1:064}.best_config": b'"one"', f"{2:064}.best_config": b'"one"'})
    two = write(tmp_path / "two", {f"{2:064}.best_config": b'"two"', f"{3:064}.best_config": b'"two"'})
    push_folder(store, folder_at(one, "helion"))
    pushed = push_folder(store, folder_at(two, "helion"))
    assert (pushed.files, pushed.files_new, pushed.created) == (3, 1, True)
    assert not push_folder(store, folder_at(one, "helion")).created
    pull_folder(store, folder_at(tmp_path / "there", "helion"))
    assert contents(tmp_path / "there") == {
        f"{1:064}.best_config": b'"one"',
        f"{2:064}.best_config": b'"one"',
        f"{3:064}.best_config": b'"two"',
    }


def test_files_of_two_builds_never_mix(store: Store, tmp_path: Path) -> None:
    """A folder that both have is that of the first, whole."""
    name = f"cache/sm90_bf16_gemm.{HEX}"
    push_folder(store, folder_at(make_folder("deepgemm", tmp_path / "one")))
    other = {f"{name}/{file}": BINARY for file in ("kernel.cu", "kernel.cubin", "kernel.ptx")}
    new = {f"cache/new.{HEX}/{file}": BINARY for file in ("kernel.cu", "kernel.cubin")}
    pushed = push_folder(store, folder_at(write(tmp_path / "two", {**other, **new})))
    assert (pushed.files, pushed.files_new) == (8, 2)
    pull_folder(store, folder_at(tmp_path / "there"))
    assert contents(tmp_path / "there") == {**LAYOUTS["deepgemm"], **new}


def test_one_index_is_never_put_to_the_files_of_another(store: Store, tmp_path: Path) -> None:
    """Of the driver's folders the one that holds more is published, as it is."""
    push_folder(store, folder_at(make_folder("cuda-driver", tmp_path / "one"), "cuda-driver"))
    fewer = write(tmp_path / "fewer", {"index": b"other", "a/a/abc": b"binary"})
    assert not push_folder(store, folder_at(fewer, "cuda-driver")).created
    more = {"index": b"more", **{f"a/a/{number:03}": b"binary" for number in range(3)}}
    assert push_folder(store, folder_at(write(tmp_path / "more", more), "cuda-driver")).created
    pull_folder(store, folder_at(tmp_path / "there", "cuda-driver"))
    assert contents(tmp_path / "there") == more


def test_nothing_of_strangers_is_signed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A writer that signs does not add to what nobody signed; a reader that trusts it takes only what it signed."""
    raw, key = RawBucket(str(tmp_path / "bucket")), make_key()
    name = f"{HEX * 4}.best_config"
    push_folder(raw.store(), folder_at(write(tmp_path / "evil", {name: b'"evil"'}), "helion"))
    reader = raw.store(trust=TrustPolicy.from_pems([key.public]))
    assert pull_folder(reader, folder_at(tmp_path / "there", "helion")).files == 0
    good = {f"{1:064}.best_config": b'"good"'}
    signer = raw.store(signer=Signer.from_pem(key.private))
    assert push_folder(signer, folder_at(write(tmp_path / "good", good), "helion")).files == 1
    assert pull_folder(reader, folder_at(tmp_path / "there", "helion")).written == 1
    assert contents(tmp_path / "there") == good


@pytest.mark.parametrize("path", [f"{HEX * 4}.best_config.lock", "tmp.x", "triton/0/a.cubin", "other.best_config"])
def test_a_bundle_with_a_file_that_does_not_belong_there_is_refused(
    path: str, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Though everything else of it is good; the one before it serves."""
    folder = folder_at(tmp_path / "there", "helion")
    good = FolderFile(f"{HEX * 4}.best_config", b"{}")
    store.publish_newest(bundle_of_folder("helion", folder.facts, [good]), inline=(LIST,))
    store.publish_newest(bundle_of_folder("helion", folder.facts, [good, FolderFile(path, b"{}")]), inline=(LIST,))
    with caplog.at_level(logging.WARNING):
        assert pull_folder(store, folder).written == 1
    assert path in caplog.text
    assert contents(tmp_path / "there").keys() == {good.path}


@pytest.mark.parametrize("path", ["../x.best_config", "/x", "a\0", "a/../../x"])
def test_a_list_with_hostile_names_is_a_miss(
    path: str, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may write the bucket can write any list; `verify` names it."""
    folder = folder_at(tmp_path / "a" / "there", "helion")
    digest = hashlib.sha256(b"{}").hexdigest()
    text = document([(path, digest)], "helion", **folder.facts)
    payloads = (Payload(LIST, text.encode()), Payload(digest, b"{}"))
    store.publish_newest(Bundle(kind=FOLDER, key=folder.key, payloads=payloads), inline=(LIST,))
    with caplog.at_level(logging.WARNING):
        assert pull_folder(store, folder).files == 0
    assert "is not 1 to" in caplog.text
    assert not (tmp_path / "a").exists()
    assert len(verify(Catalog(store.bucket)).bad) == 1


def test_a_damaged_bundle_is_a_miss_that_the_next_push_mends(tmp_path: Path) -> None:
    """Of its pack there is one copy only; `verify` says so."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store, here = raw.store(), folder_at(make_folder("deepgemm", tmp_path / "here"))
    push_folder(store, here)
    [pack] = raw.names(r"pack\.tar\.zst$")
    raw.write(pack, raw.read(pack)[:-1] + b"!")
    assert [problem.name for problem in verify(Catalog(store.bucket)).bad][:1] == [pack.rpartition("/")[0] + "/"]
    assert pull_folder(store, folder_at(tmp_path / "there")).files == 0
    assert push_folder(store, here).created
    assert pull_folder(store, folder_at(tmp_path / "there")).written == 6
    raw.delete(pack)
    for other in raw.names(r"pack\.tar\.zst$"):
        raw.delete(other)
    assert push_folder(store, here).created
    assert pull_folder(store, folder_at(tmp_path / "else")).written == 6


def collect(store: Store, policy: Policy, *, days: float) -> set[str]:
    """Mark and sweep as if so many days had passed; return the variants that stay."""
    catalog = Catalog(store.bucket)
    sweep(catalog, mark(catalog, policy, clock=lambda: time.time() + days * DAY))
    return {place.variant for place in Catalog(store.bucket).places}


def test_gc_keeps_the_newest_of_each_folder(store: Store, tmp_path: Path) -> None:
    """As it does with lists, though none names it: what came before goes, unless it is young; and what is old."""
    for number in range(3):
        here = write(tmp_path / "here", {f"{number:064}.best_config": b"{}"})
        push_folder(store, folder_at(here, "helion"))
    push_folder(store, folder_at(tmp_path / "here", "helion", gpu="NVIDIA H100"))
    places: dict[str, list[str]] = {place.key: [] for place in Catalog(store.bucket).places}
    for place in Catalog(store.bucket).places:
        places[place.key].append(place.variant)
    newest = {min(variants) for variants in places.values()}
    assert len(collect(store, Policy(), days=0.0)) >= 3
    assert collect(store, Policy(workload="other", keep_last=0), days=2.0) >= newest
    assert collect(store, Policy(), days=2.0) == newest
    assert collect(store, Policy(older_than=30 * DAY), days=20.0) == newest
    rows = {row.name: row.bundles for row in usage(Catalog(store.bucket), "kind", now=time.time()).rows}
    assert rows == {FOLDER: 2}
    assert collect(store, Policy(older_than=30 * DAY), days=40.0) == set()
    assert pull_folder(store, folder_at(tmp_path / "there", "helion")).files == 0


def test_gc_leaves_what_a_newer_version_may_have_put_there(tmp_path: Path) -> None:
    """A bundle of a kind that is not known here is none of the leftovers."""
    raw = RawBucket(str(tmp_path / "bucket"))
    name = f"bundles/unknown/key/default/{'0' * 32}/manifest.json"
    raw.write(name, b"{}")
    raw.write(f"bundles/fx_graph/key/default/{'0' * 32}/pack.tar.zst", b"left over")
    catalog = Catalog(raw.bucket())
    plan = mark(catalog, Policy(), clock=lambda: time.time() + 2 * DAY)
    assert plan.leftovers == (f"bundles/fx_graph/key/default/{'0' * 32}/pack.tar.zst",)


def test_what_a_host_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library, a driver, or the name."""
    monkeypatch.setattr(identity, "host_gpus", Gpus)
    with pytest.raises(SettingsError, match="deepgemm, flashinfer-autotune"):
        preset_folder("deepgem", {})
    with pytest.raises(LocalCacheError, match="none of deep-gemm, sgl-deep-gemm is installed here"):
        preset_folder("deepgemm", {})
    with pytest.raises(LocalCacheError, match="this host has no driver"):
        preset_folder("cuda-driver", {})


def test_triton_takes_timings_that_came_through_a_bucket(store: Store, tmp_path: Path) -> None:
    """Its own autotuner, on another host, times nothing."""

    def autotune(folder: Path) -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "programs" / "autotune_plain.py")],
            env={**os.environ, "TRITON_CACHE_DIR": str(folder)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        found: dict[str, int] = json.loads(done.stdout)
        return found

    environ = {"TRITON_CACHE_DIR": str(tmp_path / "here")}
    assert autotune(tmp_path / "here")["timed"] == 2
    pushed = push_folder(store, preset_folder("triton-autotune", environ))
    assert pushed.files == 1
    there = preset_folder("triton-autotune", {"TRITON_CACHE_DIR": str(tmp_path / "there")})
    assert pull_folder(store, there).written == 1
    assert autotune(tmp_path / "there") == {"timed": 0, "block": 64}
