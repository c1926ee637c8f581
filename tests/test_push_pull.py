"""A whole cache folder through a bucket and back, at another path."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kernels import CompiledKernels
from tests.leftovers import leftovers, wait_until
from tests.raw import RawBucket
from tritonsync.errors import FormatError, LocalCacheError, TritonSyncError
from tritonsync.format.value import bundle_of_value
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_part, bundle_of_workload
from tritonsync.local.inductor_cache import value_path
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import Pulled, pull
from tritonsync.sync.push import Pushed, push


def push_folder(raw: RawBucket, folder: Path, workload: str = "w") -> Pushed:
    return push(raw.store(), LocalCaches.at(folder), folder / "triton", workload)


def pull_folder(raw: RawBucket, folder: Path, workload: str = "w") -> Pulled:
    return pull(raw.store(), LocalCaches.at(folder), workload)


def files(folder: Path) -> dict[str, bytes]:
    """Read everything that a start from this folder uses; generated sources are in the values."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in ("triton/*/*/*", "fxgraph/**/*", "aotautograd/**/*", "*/*.best_config")
        for path in folder.glob(pattern)
        if path.is_file()
    }


def baked_path(folder: Path) -> bytes:
    """Return the path that the cache had when Triton wrote it."""
    group = next(folder.glob("triton/*/*/__grp__*.json"))
    return group.read_bytes().partition(b": {")[2].split(b'"')[3].partition(b"/triton/")[0]


def assert_same(copy: Path, original: Path) -> None:
    """Every file equals the original, once the path inside `.json` files is the new one."""
    old, new = baked_path(original), str(copy).encode()
    expected = {
        name: data.replace(old + b"/triton/", new + b"/triton/") if name.endswith(".json") else data
        for name, data in files(original).items()
    }
    found = files(copy)
    assert found.keys() == expected.keys()
    assert [name for name, data in expected.items() if found[name] != data] == []


def test_a_cache_arrives_whole_at_another_path(raw: RawBucket, real_cache: Path, tmp_path: Path) -> None:
    """Kernels are equal up to their path, values and autotune results byte for byte, in fewer than 40 requests."""
    pushed = push_folder(raw, real_cache)
    pulled = pull_folder(raw, tmp_path)
    assert_same(tmp_path, real_cache)
    assert pushed.kernels == pushed.kernels_new == pulled.kernels == pulled.kernels_emitted
    assert pulled.requests < 40
    assert (pulled.missing, pulled.conflicts) == ((), 0)


def test_a_second_push_creates_nothing(raw: RawBucket, real_cache: Path) -> None:
    """The bucket is as it was, object for object."""
    push_folder(raw, real_cache)
    before = raw.names()
    again = push_folder(raw, real_cache)
    assert (again.objects_created, again.bytes_uploaded, again.kernels_new, again.bundles_new) == (0, 0, 0, 0)
    assert raw.names() == before


def test_half_of_the_kernels_add_no_kernel_object(raw: RawBucket, real_cache: Path, tmp_path: Path) -> None:
    """A model upgrade that keeps half of its kernels uploads no kernel twice."""
    push_folder(raw, real_cache)
    before = raw.names("^kernels/")
    folders = sorted(path for path in (real_cache / "triton").glob("*/*") if path.is_dir())
    for folder in folders[::2]:
        shutil.copytree(folder, tmp_path / folder.relative_to(real_cache))
    half = push_folder(raw, tmp_path, "half")
    assert (half.kernels, half.kernels_new) == (len(folders[::2]), 0)
    assert raw.names("^kernels/") == before


def test_without_any_pack_everything_is_loaded_from_single_objects(
    raw: RawBucket, real_cache: Path, tmp_path: Path
) -> None:
    """Packs are the fast way, not the only one."""
    push_folder(raw, real_cache)
    for name in raw.names(r"pack\.tar\.zst$"):
        raw.delete(name)
    pull_folder(raw, tmp_path)
    assert_same(tmp_path, real_cache)


def test_a_push_mends_what_lost_its_packs(raw: RawBucket, real_cache: Path, tmp_path: Path) -> None:
    """The next push writes the packs again, and then single objects are not needed any more."""
    push_folder(raw, real_cache)
    packs = raw.names(r"pack\.tar\.zst$")
    for name in packs:
        raw.delete(name)
    push_folder(raw, real_cache)
    assert raw.names(r"pack\.tar\.zst$") == packs
    for name in raw.names("^kernels/|/payloads/"):
        raw.delete(name)
    pull_folder(raw, tmp_path)
    assert_same(tmp_path, real_cache)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_push_mends_what_was_damaged(raw: RawBucket, real_cache: Path, tmp_path: Path, damage: str) -> None:
    """After any damage to packs and manifests, the next push makes the workload loadable from packs alone."""
    push_folder(raw, real_cache)
    for number, name in enumerate(raw.names(r"pack\.tar\.zst$|manifest\.json$")):
        if number % 2:
            raw.damage(name, damage)
    push_folder(raw, real_cache)
    for name in raw.names("^kernels/|/payloads/"):
        raw.delete(name)
    pull_folder(raw, tmp_path)
    assert_same(tmp_path, real_cache)


def test_a_second_pull_fetches_no_pack(raw: RawBucket, real_cache: Path, tmp_path: Path) -> None:
    """What is here already costs its manifests."""
    push_folder(raw, real_cache)
    first = pull_folder(raw, tmp_path)
    again = pull_folder(raw, tmp_path)
    assert (again.kernels_emitted, again.kernels_present) == (0, first.kernels)
    assert again.bytes_downloaded <= sum(len(raw.read(name)) for name in raw.names(r"manifest\.json$"))


def test_a_pull_completes_a_folder_that_lost_something(raw: RawBucket, real_cache: Path, tmp_path: Path) -> None:
    """Kernels and values that were deleted come back."""
    push_folder(raw, real_cache)
    pull_folder(raw, tmp_path)
    kernel = next(path for path in (tmp_path / "triton").glob("*/*") if list(path.glob("__grp__*")))
    shutil.rmtree(kernel)
    shutil.rmtree(tmp_path / "aotautograd")
    assert pull_folder(raw, tmp_path).kernels_emitted == 1
    assert_same(tmp_path, real_cache)


def test_a_build_of_another_writer_is_left_alone_and_its_graph_is_not_used(
    raw: RawBucket, real_cache: Path, tmp_path: Path
) -> None:
    """A kernel folder with other launch facts stays as it is; the graph that needs ours is a miss on this host."""
    push_folder(raw, real_cache)
    folder = next(path for path in sorted((real_cache / "triton").glob("*/*")) if list(path.glob("__grp__*")))
    other = tmp_path / folder.relative_to(real_cache)
    shutil.copytree(folder, other)
    for path in other.glob("*.json"):
        text = path.read_text().replace('"num_warps": ', '"num_warps": 1')
        path.write_text(text.replace(str(baked_path(real_cache), "utf-8"), str(tmp_path)))
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    pulled = pull_folder(raw, tmp_path)
    assert pulled.conflicts == 1
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before
    values = {path.name for path in (real_cache / "fxgraph").rglob("*") if path.is_file()}
    assert len(values - {path.name for path in tmp_path.rglob("fxgraph/*/*/*")}) == 1


@pytest.mark.parametrize("kind", ["dynamo", "pgo"])
def test_what_changes_under_one_key_is_published_and_pulled_anew(tmp_path: Path, kind: str) -> None:
    """A newer one of the bucket takes the place of an earlier one of the bucket, never of what was only made here."""
    raw = RawBucket(str(tmp_path / "bucket"))
    writer, reader = tmp_path / "writer", tmp_path / "reader"
    there, here = (value_path(folder, kind, "key", "0" * 64) for folder in (writer, reader))
    there.parent.mkdir(parents=True)
    for content in (b"first", b"second", b"third"):
        there.write_bytes(content)
        push_folder(raw, writer)
        assert pull_folder(raw, reader).missing == ()
        assert here.read_bytes() == content
    here.write_bytes(b"made here")
    there.write_bytes(b"fourth")
    push_folder(raw, writer)
    pull_folder(raw, reader)
    assert here.read_bytes() == b"made here"
    push_folder(raw, reader)
    pull_folder(raw, writer)
    assert there.read_bytes() == b"made here"


def test_a_package_of_an_older_bucket_is_pulled(tmp_path: Path) -> None:
    """It is the one bundle of its key, and its variant is no time."""
    raw = RawBucket(str(tmp_path / "bucket"))
    store = raw.store()
    store.publish(bundle_of_value("dynamo", "key", b"package"))
    entries = (WorkloadEntry(kind="dynamo", key="key", variant="default"),)
    listed = bundle_of_workload("w", Workload(inductor_dir="/cache", entries=entries), ())
    store.publish_newest(listed, inline=(LIST,))
    assert pull_folder(raw, tmp_path / "reader").missing == ()
    assert value_path(tmp_path / "reader", "dynamo", "key", "0" * 64).read_bytes() == b"package"


def test_a_pull_sweeps_what_killed_processes_left(raw: RawBucket, real_cache: Path, tmp_path: Path) -> None:
    """In the folder of each device, and in Inductor's own; what is younger than an hour may be in use."""
    push_folder(raw, real_cache)
    old, young = leftovers(tmp_path)
    pull_folder(raw, tmp_path)
    wait_until(lambda: not any(path.exists() for path in old))
    assert all(path.exists() for path in young)


def test_a_workload_that_is_not_there_is_an_error_that_names_it(raw: RawBucket, tmp_path: Path) -> None:
    """Nothing is written, and the message says what to do."""
    with pytest.raises(TritonSyncError, match=r"no workload named 'nothing'.*push it first"):
        pull_folder(raw, tmp_path, "nothing")


def test_kernels_of_no_graph_go_into_several_bundles(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each up to a cap; all of them arrive, and what is there already is neither sent nor fetched again."""
    monkeypatch.setattr("tritonsync.format.workload.MAX_PART", 1)
    with RawBucket(str(tmp_path / "bucket")) as raw:
        pushed = push(raw.store(), LocalCaches.at(tmp_path / "none"), compiled_kernels.directory, "w")
        assert (pushed.kernels, pushed.kernels_new, pushed.bundles) == (4, 4, 4)
        assert len(raw.names(r"^bundles/triton/.*/part-.*/manifest\.json$")) == 3
        again = push(raw.store(), LocalCaches.at(tmp_path / "none"), compiled_kernels.directory, "w")
        assert (again.kernels, again.bundles, again.objects_created, again.bytes_uploaded) == (4, 4, 0, 0)
        here = LocalCaches.at(tmp_path / "i", tmp_path / "t", by_device=False)
        pulled = pull(raw.store(), here, "w")
        assert (pulled.kernels_emitted, pulled.bundles, pulled.missing) == (4, 4, ())
        assert {path.name for path in (tmp_path / "t").iterdir()} == set(compiled_kernels.hashes)
        second = pull(raw.store(), here, "w")
        assert (second.kernels_emitted, second.kernels_present) == (0, 4)
        assert second.bytes_downloaded < pulled.bytes_downloaded


def test_a_kernel_that_came_in_a_part_is_not_asked_for_by_itself(
    compiled_kernels: CompiledKernels, tmp_path: Path
) -> None:
    """A list that a program published names each kernel, and the bundles of many that hold them."""
    kernels = compiled_kernels.kernels(None)
    part = bundle_of_part(kernels[1:])
    entries = [WorkloadEntry(kind="triton", key=kernel.hash, variant="default") for kernel in kernels]
    entries.append(WorkloadEntry(kind="triton", key=part.key, variant=part.variant))
    with RawBucket(str(tmp_path / "bucket")) as raw:
        store = raw.store()
        store.publish(part)
        listed = Workload(inductor_dir="/cache", entries=tuple(entries))
        store.publish_newest(bundle_of_workload("w", listed, kernels[:1]), inline=(LIST,))
        pulled = pull(raw.store(), LocalCaches.at(tmp_path / "i", tmp_path / "t", by_device=False), "w")
    assert (pulled.kernels, pulled.kernels_emitted, pulled.missing) == (4, 4, ())


def test_one_hash_on_two_devices_arrives_on_both(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever bundle each copy is in."""
    monkeypatch.setattr("tritonsync.format.workload.MAX_PART", 1)
    name = compiled_kernels.hashes[0]
    for device in ("0", "1"):
        shutil.copytree(compiled_kernels.directory / name, tmp_path / "from" / "triton" / device / name)
    with RawBucket(str(tmp_path / "bucket")) as raw:
        push_folder(raw, tmp_path / "from")
        assert pull_folder(raw, tmp_path / "to").kernels_emitted == 2
    assert sorted(path.parent.name for path in (tmp_path / "to" / "triton").glob("*/*")) == ["0", "1"]


@pytest.mark.parametrize("what", ["file", "dangling link", "link to a file"])
def test_what_stands_in_the_place_of_one_kernel_costs_that_kernel(
    compiled_kernels: CompiledKernels, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays, it is said once, and all others are pulled."""
    here = LocalCaches.at(tmp_path / "i", tmp_path / "t", by_device=False)
    place = tmp_path / "t" / compiled_kernels.hashes[0]
    place.parent.mkdir()
    if what == "file":
        place.write_text("somebody's")
    else:
        place.symlink_to(tmp_path / "nowhere" if what == "dangling link" else __file__)
    with RawBucket(str(tmp_path / "bucket")) as raw:
        push(raw.store(), LocalCaches.at(tmp_path / "none"), compiled_kernels.directory, "w")
        pulled = pull(raw.store(), here, "w")
    assert (pulled.kernels_emitted, pulled.conflicts) == (3, 1)
    assert not place.is_dir()
    assert len([record for record in caplog.records if place.name in record.getMessage()]) == 1


def test_a_folder_that_cannot_be_written_ends_a_pull(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """A thousand kernels that all fail for one reason are one error."""
    (tmp_path / "t").write_text("no folder")
    with RawBucket(str(tmp_path / "bucket")) as raw:
        push(raw.store(), LocalCaches.at(tmp_path / "none"), compiled_kernels.directory, "w")
        with pytest.raises(LocalCacheError, match=str(tmp_path / "t")):
            pull(raw.store(), LocalCaches.at(tmp_path / "i", tmp_path / "t", by_device=False), "w")


def test_a_path_that_is_no_text_is_refused_before_anything_is_published(
    compiled_kernels: CompiledKernels, tmp_path: Path
) -> None:
    """The list of a workload names the folder, in UTF-8."""
    folder = tmp_path / "caf\udce9"
    with RawBucket(str(tmp_path / "bucket")) as raw:
        with pytest.raises(FormatError, match=r"caf\\udce9.*not UTF-8"):
            push(raw.store(), LocalCaches.at(folder), compiled_kernels.directory, "w")
        assert not (tmp_path / "bucket").exists()
