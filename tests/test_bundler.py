"""The life cycle of TritonBundler, each behaviour of PyTorch's class of that name."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.kernels import CompiledKernels, Upstream, age, contents, file_of, not_writable, with_file
from tritonsync.bundler import (
    BundleEntry,
    BundleMetadata,
    Emission,
    LoadedAutotuners,
    StaticAutotuner,
    TritonBundle,
    TritonBundler,
)
from tritonsync.errors import BundlerStateError, LocalCacheError
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.local.triton_cache import collect, emit
from tritonsync.settings import Settings

ON = Settings(url="s3://bucket/prefix")
MISSING = "Z" * 52


def bundler_of(directory: Path, settings: Settings = ON) -> TritonBundler:
    return TritonBundler(settings, lambda device: directory)


def hashes(bundle: TritonBundle) -> list[str]:
    return [kernel.hash for kernel in bundle.kernels]


@pytest.fixture
def noting(compiled_kernels: CompiledKernels) -> TritonBundler:
    """A bundler in the middle of a compile that made all four kernels."""
    bundler = bundler_of(compiled_kernels.directory)
    bundler.begin_compile()
    for kernel_hash in compiled_kernels.hashes:
        bundler.put(kernel_hash, 0)
    return bundler


# Values


def test_values_have_the_fields_of_the_original() -> None:
    """Entry, autotuner, bundle and metadata; the artifacts are `Kernel` and `KernelFile`."""
    assert BundleEntry("HASH", 0, "/c") == BundleEntry(kernel_hash="HASH", device=0, directory="/c")
    assert [field.name for field in dataclasses.fields(StaticAutotuner)] == ["cache_key", "kernel_name", "kernel"]
    assert [field.name for field in dataclasses.fields(TritonBundle)] == ["kernels", "static_autotuners"]
    assert [field.name for field in dataclasses.fields(BundleMetadata)] == [
        "cached_kernel_names",
        "statically_launched_kernel_names",
    ]
    assert TritonBundle() == TritonBundle((), ())


def test_values_are_frozen() -> None:
    """A bundle that was handed out does not change."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        TritonBundle().kernels = ()  # type: ignore[misc]


def test_payloads_are_not_shown() -> None:
    """Binaries do not flood a log."""
    bundle = TritonBundle(
        (Kernel("HASH", 0, (KernelFile("k.cubin", b"secret"),)),), (StaticAutotuner("key", "name", b"secret"),)
    )
    assert "secret" not in repr(bundle)


# Enabled or not


@pytest.mark.parametrize(
    ("settings", "enabled"),
    [
        (Settings(), False),
        (ON, True),
        (dataclasses.replace(ON, mode="off"), False),
        (dataclasses.replace(ON, force_disable_caches=True), False),
        (dataclasses.replace(ON, enabled=False), False),
        (Settings(enabled=True), True),
        (dataclasses.replace(ON, force_disable_caches=True, enabled=True), True),
    ],
)
def test_settings_decide(settings: Settings, enabled: bool) -> None:
    """Off without a URL and when torch's caches are off; an explicit switch wins."""
    assert bundler_of(Path("/c"), settings).is_enabled is enabled


def test_nothing_happens_when_disabled(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Nothing is noted, collected or written, and nesting is not refused."""
    bundler = bundler_of(compiled_kernels.directory, Settings())
    bundler.begin_compile()
    bundler.begin_compile()
    bundler.put(compiled_kernels.hashes[0], 0)
    bundler.put_static_autotuner("key", "name", b"pickle")
    collected = bundler.collect()
    assert (collected.bundle, collected.metadata) == (TritonBundle(), None)
    emission = bundler_of(tmp_path, Settings()).read_and_emit(TritonBundle(compiled_kernels.kernels()))
    assert emission == Emission()
    assert list(tmp_path.iterdir()) == []


# Noting


def test_a_compile_inside_a_compile_is_refused(noting: TritonBundler, compiled_kernels: CompiledKernels) -> None:
    """And what was noted so far is not lost."""
    with pytest.raises(BundlerStateError, match="begin_compile"):
        noting.begin_compile()
    assert hashes(noting.collect().bundle) == list(compiled_kernels.hashes)


def test_each_compile_starts_empty(noting: TritonBundler) -> None:
    """`collect` ends the compile it collected."""
    assert noting.collect().kernels_saved == 4
    noting.begin_compile()
    collected = noting.collect()
    assert collected.bundle == TritonBundle()
    assert collected.metadata == BundleMetadata()


def test_outside_of_a_compile_nothing_is_noted(compiled_kernels: CompiledKernels) -> None:
    """Before the first and after the last, `put` is a no-op; `collect` has no metadata then."""
    bundler = bundler_of(compiled_kernels.directory)
    for _ in range(2):
        bundler.put(compiled_kernels.hashes[0], 0)
        bundler.put_winner(compiled_kernels.hashes[0])
        bundler.put_static_autotuner("key", "name", b"pickle")
        assert bundler.collect_static_autotuners() == ((), ())
        collected = bundler.collect()
        assert (collected.bundle, collected.metadata) == (TritonBundle(), None)
        bundler.begin_compile()
        bundler.end_compile()


def test_end_compile_drops_what_was_noted(noting: TritonBundler) -> None:
    """The next compile may begin."""
    noting.end_compile()
    noting.begin_compile()
    assert noting.collect().kernels_saved == 0


def test_put_reads_nothing(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """A kernel may be noted before its folder exists; the folder asked for is that of its device."""
    bundler = TritonBundler(ON, lambda device: tmp_path / str(device))
    bundler.begin_compile()
    for device in (0, 1):
        bundler.put(compiled_kernels.hashes[0], device)
    for device in (0, 1):
        compiled_kernels.copy(tmp_path / str(device))
    assert [(kernel.hash, kernel.device) for kernel in bundler.collect().bundle.kernels] == [
        (compiled_kernels.hashes[0], 0),
        (compiled_kernels.hashes[0], 1),
    ]


def test_a_kernel_noted_twice_is_bundled_once(noting: TritonBundler, compiled_kernels: CompiledKernels) -> None:
    """Graphs often share kernels."""
    noting.put(compiled_kernels.hashes[0], 0)
    assert hashes(noting.collect().bundle) == list(compiled_kernels.hashes)


def test_many_threads_may_note(tmp_path: Path) -> None:
    """Nothing is lost, and a compile ends once."""
    bundler = bundler_of(tmp_path)
    bundler.begin_compile()

    def note(thread: int) -> None:
        for index in range(200):
            bundler.put(f"KERNEL{thread}N{index}", 0)
            bundler.put_static_autotuner(f"{thread}-{index}", "name", b"")

    threads = [threading.Thread(target=note, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    collected = bundler.collect()
    assert len(collected.kernels_skipped) == 1600  # none of them exists
    assert collected.autotuners_saved == 1600


# Winners


def test_only_winners_are_collected(noting: TritonBundler, compiled_kernels: CompiledKernels) -> None:
    """Kernels that lost their autotuning are left out."""
    noting.put_winner(compiled_kernels.hashes[2])
    assert hashes(noting.collect().bundle) == [compiled_kernels.hashes[2]]


def test_without_winners_all_are_collected(noting: TritonBundler, compiled_kernels: CompiledKernels) -> None:
    """Kernels with a single configuration never report one."""
    assert hashes(noting.collect().bundle) == list(compiled_kernels.hashes)


def test_a_loser_that_an_autotuner_names_is_kept(noting: TritonBundler, compiled_kernels: CompiledKernels) -> None:
    """Without it, the reader would lose the whole autotuner."""
    noting.put_winner(compiled_kernels.hashes[0])
    noting.put_static_autotuner("key", "name", b"pickle", [compiled_kernels.hashes[3]])
    assert hashes(noting.collect().bundle) == [compiled_kernels.hashes[0], compiled_kernels.hashes[3]]


# Static autotuners


def test_static_autotuners_are_carried_as_they_are(noting: TritonBundler) -> None:
    """Opaque bytes, in the order they came, with their names."""
    autotuners = (StaticAutotuner("key1", "first", b"\x80one"), StaticAutotuner("key2", "second", b"\x80two"))
    for autotuner in autotuners:
        noting.put_static_autotuner(autotuner.cache_key, autotuner.kernel_name, autotuner.kernel)
    assert noting.collect_static_autotuners() == (autotuners, ("first", "second"))
    collected = noting.collect()
    assert collected.bundle.static_autotuners == autotuners
    assert collected.metadata is not None
    assert collected.metadata.statically_launched_kernel_names == ("first", "second")
    assert collected.autotuners_saved == 2


def test_autotuners_are_handed_to_the_callback_after_the_kernels(
    compiled_kernels: CompiledKernels, tmp_path: Path
) -> None:
    """When it is called, the binaries that it looks for are there."""
    kernel = compiled_kernels.kernel()
    autotuner = StaticAutotuner("key", "name", b"pickle")
    seen = []

    def load(given: StaticAutotuner) -> None:
        seen.append((given, (tmp_path / kernel.hash / "scale_kernel.cubin").exists()))

    bundler = TritonBundler(ON, lambda device: tmp_path, load_autotuner=load)
    emission = bundler.read_and_emit(TritonBundle((kernel,), (autotuner,)))
    assert seen == [(autotuner, True)]
    assert emission.metadata == BundleMetadata(("scale_kernel",), ("name",))
    assert emission.autotuners == LoadedAutotuners(loaded=("name",))


@pytest.mark.parametrize("there", ["equal", "busy", "lost", "conflict"])
def test_autotuners_are_loaded_over_their_own_kernels_only(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """Not over what another writer is making, or has made at the same moment: they carry launch facts of their own."""
    kernel = compiled_kernels.kernel()
    loaded: list[StaticAutotuner] = []
    facts = json.loads(file_of(kernel, ".json").payload)
    other = with_file(kernel, "scale_kernel.json", json.dumps({**facts, "num_warps": 8}).encode())
    if there == "equal":
        emit(kernel, tmp_path)
    if there == "conflict":
        emit(other, tmp_path)
    if there == "busy":
        (tmp_path / kernel.hash).mkdir()
        (tmp_path / kernel.hash / "scale_kernel.source").write_text("being made")
    if there == "lost":
        replace = os.replace

        def lose(source: str, target: str) -> None:
            monkeypatch.undo()
            emit(other, tmp_path)
            replace(source, target)

        monkeypatch.setattr(os, "replace", lose)
    bundler = TritonBundler(ON, lambda device: tmp_path, load_autotuner=loaded.append)
    emission = bundler.read_and_emit(TritonBundle((kernel,), (StaticAutotuner("key", "name", b"pickle"),)))
    outcome = {"equal": "present", "lost": "conflict"}.get(there, there)
    assert emission.outcomes == {outcome: 1}
    assert bool(loaded) is (there == "equal")
    assert emission.autotuners == LoadedAutotuners(*((("name",), ()) if loaded else ((), ("name",))))


def test_one_bad_autotuner_does_not_take_the_rest_along(caplog: pytest.LogCaptureFixture) -> None:
    """It is skipped with a warning that names it."""

    def load(autotuner: StaticAutotuner) -> None:
        if autotuner.kernel_name == "bad":
            raise RuntimeError("cubin not found")

    autotuners = [StaticAutotuner(name, name, b"") for name in ("first", "bad", "last")]
    with caplog.at_level(logging.WARNING, "tritonsync"):
        done = bundler_of(Path("/c")).load_autotuners(autotuners, load)
    assert done == LoadedAutotuners(loaded=("first", "last"), skipped=("bad",))
    assert "Skipping the static autotuner bad" in caplog.text
    assert "cubin not found" in caplog.text


def test_without_a_callback_autotuners_are_skipped_and_counted(tmp_path: Path) -> None:
    """The kernels are of use without them."""
    bundle = TritonBundle((), (StaticAutotuner("key", "name", b"pickle"),))
    emission = bundler_of(tmp_path).read_and_emit(bundle)
    assert emission.autotuners == LoadedAutotuners(skipped=("name",))
    assert emission.metadata == BundleMetadata()


# Collecting


def test_collect_gives_kernels_names_and_counts(noting: TritonBundler, compiled_kernels: CompiledKernels) -> None:
    """Relocated kernels, a name for each binary, how many, how long."""
    collected = noting.collect()
    assert collected.bundle == TritonBundle(compiled_kernels.kernels())
    assert collected.metadata == BundleMetadata(("scale_kernel",) * 4)
    assert (collected.kernels_saved, collected.kernels_skipped) == (4, {})
    assert collected.seconds > 0


def test_collect_equals_the_original(
    noting: TritonBundler, compiled_kernels: CompiledKernels, upstream: Upstream
) -> None:
    """The same files with the same bytes as PyTorch's `collect`."""
    ours = {kernel.hash: {f.name: f.payload for f in kernel.files} for kernel in noting.collect().bundle.kernels}
    assert ours == upstream.collect(compiled_kernels.directory, compiled_kernels.hashes)


def test_missing_and_unfinished_kernels_are_skipped(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """No folder, no binary: the rest is collected. The original would publish half of the second."""
    copied = compiled_kernels.copy(tmp_path / "copy")
    (copied.directory / copied.hashes[0] / "scale_kernel.cubin").unlink()
    bundler = bundler_of(copied.directory)
    bundler.begin_compile()
    for kernel_hash in (MISSING, *copied.hashes):
        bundler.put(kernel_hash, 0)
    collected = bundler.collect()
    assert hashes(collected.bundle) == list(copied.hashes[1:])
    assert set(collected.kernels_skipped) == {MISSING, copied.hashes[0]}


def test_a_kernel_with_an_unreadable_file_is_left_out_whole(tmp_path: Path) -> None:
    """The reason is on the result; nothing is raised."""
    loop = tmp_path / MISSING
    loop.symlink_to(loop)
    bundler = bundler_of(tmp_path)
    bundler.begin_compile()
    bundler.put(MISSING, 0)
    collected = bundler.collect()
    assert collected.bundle == TritonBundle()
    assert str(loop) in collected.kernels_skipped[MISSING]


def test_a_kernel_that_holds_the_sentinel_is_left_out(
    compiled_kernels: CompiledKernels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning that names it."""
    copied = compiled_kernels.copy(tmp_path / "copy")
    (copied.directory / copied.hashes[0] / "scale_kernel.json").write_text('{"path": "[REPLACE]"}')
    bundler = bundler_of(copied.directory)
    bundler.begin_compile()
    bundler.put(copied.hashes[0], 0)
    with caplog.at_level(logging.WARNING, "tritonsync"):
        assert bundler.collect().bundle == TritonBundle()
    assert copied.hashes[0] in caplog.text
    assert "[REPLACE]" in caplog.text


# Writing back


def test_what_was_collected_is_written_back(
    noting: TritonBundler, compiled_kernels: CompiledKernels, tmp_path: Path
) -> None:
    """Into the folder of each kernel's device; names, counts and time are on the result."""
    bundle = noting.collect().bundle
    bundle = TritonBundle(tuple(dataclasses.replace(k, device=i % 2) for i, k in enumerate(bundle.kernels)))
    emission = TritonBundler(ON, lambda device: tmp_path / str(device)).read_and_emit(bundle)
    assert emission.metadata == BundleMetadata(("scale_kernel",) * 4)
    assert (emission.outcomes, emission.kernels_emitted) == ({"emitted": 4}, 4)
    assert emission.seconds > 0
    for kernel in bundle.kernels:
        assert collect(tmp_path / str(kernel.device) / kernel.hash, kernel.device) == kernel


def test_written_folders_equal_those_of_the_original(noting: TritonBundler, upstream: Upstream, tmp_path: Path) -> None:
    """PyTorch finds ours written, and ours are the bytes that PyTorch writes."""
    bundle = noting.collect().bundle
    bundler_of(tmp_path).read_and_emit(bundle)
    ours = {kernel.hash: contents(tmp_path / kernel.hash) for kernel in bundle.kernels}
    assert upstream.emit(tmp_path, *bundle.kernels) == []
    shutil.rmtree(tmp_path)
    assert len(upstream.emit(tmp_path, *bundle.kernels)) == 4
    assert {kernel.hash: contents(tmp_path / kernel.hash) for kernel in bundle.kernels} == ours


def test_a_folder_that_is_there_is_left_alone(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """It counts as present, and its name is not among those written."""
    bundle = TritonBundle(compiled_kernels.kernels())
    bundler = bundler_of(tmp_path)
    bundler.read_and_emit(bundle)
    emission = bundler.read_and_emit(bundle)
    assert emission.outcomes == {"present": 4}
    assert emission.metadata == BundleMetadata()
    assert emission.kernels_emitted == 0


def test_conflicts_are_named(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """So that a graph that needs one of them is not used."""
    kernel = compiled_kernels.kernel()
    bundler = bundler_of(tmp_path)
    bundler.read_and_emit(TritonBundle((kernel,)))
    facts = json.loads(file_of(kernel, ".json").payload)
    other = with_file(kernel, "scale_kernel.json", json.dumps({**facts, "num_warps": 8}).encode())
    emission = bundler.read_and_emit(TritonBundle((other, compiled_kernels.kernel(1))))
    assert emission.outcomes == {"conflict": 1, "emitted": 1}
    assert emission.conflicts == (kernel.hash,)


def test_a_broken_folder_is_repaired(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """The original bails out on any folder that is not empty, for ever."""
    bundle = TritonBundle(compiled_kernels.kernels())
    bundler = bundler_of(tmp_path)
    bundler.read_and_emit(bundle)
    (tmp_path / compiled_kernels.hashes[1] / "scale_kernel.cubin").unlink()
    assert bundler.read_and_emit(bundle).outcomes == {"present": 3, "busy": 1}
    age(tmp_path)
    emission = bundler.read_and_emit(bundle)
    assert emission.outcomes == {"present": 3, "repaired": 1}
    assert emission.metadata == BundleMetadata(("scale_kernel",))


def test_half_a_kernel_is_refused_and_the_rest_written(
    compiled_kernels: CompiledKernels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bundle of the original may hold one."""
    half = with_file(compiled_kernels.kernel(), "scale_kernel.cubin", None)
    with caplog.at_level(logging.WARNING, "tritonsync"):
        emission = bundler_of(tmp_path).read_and_emit(TritonBundle((half, compiled_kernels.kernel(1))))
    assert emission.outcomes == {"emitted": 1}
    assert list(emission.refused) == [half.hash]
    assert half.hash in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [compiled_kernels.hashes[1]]


def test_settings_choose_the_files(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """`launch` writes three files of eight."""
    kernel = compiled_kernels.kernel()
    bundler_of(tmp_path, dataclasses.replace(ON, files="launch")).read_and_emit(TritonBundle((kernel,)))
    assert len(contents(tmp_path / kernel.hash)) == 3


def test_a_folder_that_may_not_be_written_is_an_error(compiled_kernels: CompiledKernels, shared_folder: Path) -> None:
    """It names the folder; whoever called decides to go on without."""
    bundle = TritonBundle(compiled_kernels.kernels())
    with not_writable(shared_folder), pytest.raises(LocalCacheError, match=str(shared_folder)):
        bundler_of(shared_folder).read_and_emit(bundle)
    assert list(shared_folder.iterdir()) == []


def test_nothing_of_torch_is_needed() -> None:
    """The module loads neither torch nor triton."""
    script = "import sys, tritonsync.bundler; print(sorted({'torch', 'triton', 'fsspec'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
