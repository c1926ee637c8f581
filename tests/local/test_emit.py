"""Writing kernel folders: new ones, and into what is there already."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
from pathlib import Path

import pytest

from tests.kernels import CompiledKernels, Upstream, age, contents, file_of, not_writable, with_file
from tritonsync.errors import FormatError, LocalCacheError
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.local import emit as emit_module
from tritonsync.local.files import write_new
from tritonsync.local.triton_cache import collect, emit

GROUP = "__grp__scale_kernel.json"
FACTS = "scale_kernel.json"
CUBIN = "scale_kernel.cubin"


def other_build(kernel: Kernel) -> Kernel:
    """Return a kernel of the same hash that needs more shared memory."""
    facts = json.loads(file_of(kernel, ".json").payload)
    return with_file(kernel, FACTS, json.dumps({**facts, "shared": facts["shared"] + 1024}).encode())


def leftovers(base: Path) -> list[str]:
    return [path.name for path in base.iterdir() if path.name.startswith("tmp.")]


@pytest.mark.parametrize("empty_folder", [False, True])
def test_a_new_kernel_appears_as_triton_wrote_it(
    compiled_kernels: CompiledKernels, upstream: Upstream, tmp_path: Path, empty_folder: bool
) -> None:
    """Every file is there with the paths of its new place, Triton finds it; an empty folder is no obstacle."""
    kernel = compiled_kernels.kernel()
    base = tmp_path / "not" / "yet"
    if empty_folder:
        (base / kernel.hash).mkdir(parents=True)  # Triton makes one on every look-up
    done = emit(kernel, base)
    assert (done.outcome, done.path) == ("emitted", base / kernel.hash)
    assert collect(done.path, 0) == kernel
    assert upstream.group(base, kernel) == {
        file.name: str(done.path / file.name) for file in kernel.files if file.name != GROUP
    }
    assert leftovers(base) == []


def test_what_is_emitted_equals_what_pytorch_emits(
    compiled_kernels: CompiledKernels, upstream: Upstream, tmp_path: Path
) -> None:
    """The same bytes at the same place, and each leaves the other's folders alone."""
    kernels = compiled_kernels.kernels()
    assert upstream.emit(tmp_path, *kernels) == ["scale_kernel"] * 4
    theirs = {kernel.hash: contents(tmp_path / kernel.hash) for kernel in kernels}
    assert {emit(kernel, tmp_path).outcome for kernel in kernels} == {"present"}
    shutil.rmtree(tmp_path)
    for kernel in kernels:
        assert contents(emit(kernel, tmp_path).path) == theirs[kernel.hash]
    assert upstream.emit(tmp_path, *kernels) == []


def test_launch_files_are_enough_for_triton(
    compiled_kernels: CompiledKernels, upstream: Upstream, tmp_path: Path
) -> None:
    """Binary, facts and a group of just these two; PyTorch takes the folder for written."""
    kernel = compiled_kernels.kernel()
    folder = emit(kernel, tmp_path, files="launch").path
    assert sorted(contents(folder)) == [GROUP, CUBIN, FACTS]
    assert upstream.group(tmp_path, kernel) == {name: str(folder / name) for name in (CUBIN, FACTS)}
    assert upstream.emit(tmp_path, kernel) == []
    assert emit(kernel, tmp_path).outcome == "present"
    launch_only = collect(folder, 0)
    assert launch_only is not None
    assert emit(launch_only, tmp_path / "again").outcome == "emitted"


def test_a_kernel_of_a_real_cache_is_present_after_it_was_emitted(h200_vit: Path, tmp_path: Path) -> None:
    """A whole real cache goes into an empty folder, and is found there the second time."""
    kernels = [collect(folder, 0) for folder in (h200_vit / "triton" / "0").iterdir()]
    for expected in ("emitted", "present"):
        outcomes = [emit(kernel, tmp_path).outcome for kernel in kernels if kernel]
        assert outcomes == [expected] * 15
    assert [collect(tmp_path / kernel.hash, 0) for kernel in kernels if kernel] == kernels


def test_a_build_that_differs_in_paths_only_is_present(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Line information in the binary and the place of libdevice do not make another kernel."""
    kernel = compiled_kernels.kernel()
    emit(kernel, tmp_path)
    facts = json.loads(file_of(kernel, ".json").payload)
    assert facts["extern_libs"]
    moved = {**facts, "extern_libs": [[name, f"/elsewhere/{name}.bc"] for name, _ in facts["extern_libs"]]}
    twin = with_file(kernel, FACTS, json.dumps(moved).encode())
    twin = with_file(twin, "scale_kernel.ttir", file_of(kernel, ".ttir").payload + b"\n")
    assert emit(twin, tmp_path).outcome == "present"
    assert collect(tmp_path / kernel.hash, 0) == kernel


def test_another_build_is_a_conflict_at_any_age(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Other launch facts: what is there stays, byte for byte."""
    kernel = compiled_kernels.kernel()
    folder = emit(kernel, tmp_path).path
    for _ in range(2):
        before = contents(folder)
        assert emit(other_build(kernel), tmp_path).outcome == "conflict"
        assert contents(folder) == before
        age(tmp_path)


def test_a_build_with_other_libraries_is_a_conflict(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Only the paths of `extern_libs` are overlooked, not which libraries were linked."""
    kernel = compiled_kernels.kernel()
    emit(kernel, tmp_path)
    facts = json.loads(file_of(kernel, ".json").payload)
    linked = with_file(kernel, FACTS, json.dumps({**facts, "extern_libs": [["other", "/o.bc"]]}).encode())
    assert emit(linked, tmp_path).outcome == "conflict"


def test_a_kernel_of_another_name_is_a_conflict(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """A finished folder without our facts is another kernel."""
    kernel = compiled_kernels.kernel()
    emit(kernel, tmp_path)
    renamed = dataclasses.replace(
        kernel,
        files=tuple(
            KernelFile(file.name.replace("scale", "other"), file.payload.replace(b"scale", b"other"))
            for file in kernel.files
        ),
    )
    assert emit(renamed, tmp_path).outcome == "conflict"


def test_an_unknown_backend_is_present_only_if_all_bytes_are_equal(
    compiled_kernels: CompiledKernels, tmp_path: Path
) -> None:
    """Where launch facts are not known, nothing less will do."""
    kernel = compiled_kernels.kernel()
    group = json.dumps({"child_paths": {"k.npubin": "[REPLACE]/k.npubin"}}).encode()
    foreign = Kernel(kernel.hash, 0, (KernelFile("k.npubin", b"one"), KernelFile("__grp__k.json", group)))
    assert emit(foreign, tmp_path, files="launch").outcome == "emitted"
    assert emit(foreign, tmp_path).outcome == "present"
    assert emit(with_file(foreign, "k.npubin", b"two"), tmp_path).outcome == "conflict"


@pytest.mark.parametrize("stage", [["scale_kernel.source"], ["scale_kernel.source", "scale_kernel.ttir", CUBIN, FACTS]])
def test_a_compile_in_progress_is_left_alone(
    compiled_kernels: CompiledKernels, tmp_path: Path, stage: list[str]
) -> None:
    """Though all that is there so far equals ours, nothing is added."""
    kernel = compiled_kernels.kernel()
    folder = tmp_path / kernel.hash
    folder.mkdir()
    for name in stage:
        (folder / name).write_bytes({file.name: file.payload for file in kernel.files}[name])
    assert emit(kernel, tmp_path).outcome == "busy"
    assert sorted(contents(folder)) == sorted(stage)


def test_a_first_file_being_written_is_left_alone(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Triton's temporary folder is a sign of life, even in a folder that is old."""
    kernel = compiled_kernels.kernel()
    writing = tmp_path / kernel.hash / f"tmp.pid_1_{uuid.uuid4()}"
    writing.mkdir(parents=True)
    age(tmp_path)
    (writing / "scale_kernel.source").write_bytes(b"def sca")
    assert emit(kernel, tmp_path).outcome == "busy"


def test_a_folder_that_changed_just_now_is_left_alone(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Files may be copied or unpacked with their old times."""
    kernel = compiled_kernels.kernel()
    folder = emit(kernel, tmp_path).path
    (folder / GROUP).unlink()
    age(tmp_path)
    os.utime(folder)
    assert emit(kernel, tmp_path).outcome == "busy"


def test_a_broken_group_of_another_kernel_is_moved_aside(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """It would keep the folder unfinished for ever."""
    kernel = compiled_kernels.kernel()
    folder = emit(kernel, tmp_path).path
    (folder / "__grp__other.json").write_bytes(b"")
    age(tmp_path)
    assert emit(kernel, tmp_path).outcome == "repaired"
    assert emit(kernel, tmp_path).outcome == "present"


@pytest.mark.parametrize("missing", [GROUP, CUBIN, "scale_kernel.ttir"])
def test_an_old_unfinished_folder_is_completed(
    compiled_kernels: CompiledKernels, upstream: Upstream, tmp_path: Path, missing: str
) -> None:
    """What is missing is added, what is there is not touched."""
    kernel = compiled_kernels.kernel()
    folder = emit(kernel, tmp_path).path
    (folder / missing).unlink()
    age(tmp_path)
    inodes = {path.name: path.stat().st_ino for path in folder.iterdir() if path.name != GROUP}
    assert emit(kernel, tmp_path).outcome == "repaired"
    assert collect(folder, 0) == kernel
    assert inodes.items() <= {path.name: path.stat().st_ino for path in folder.iterdir()}.items()
    assert upstream.group(tmp_path, kernel) is not None
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("damage", [b"", b"{", b'{"child_paths": ["scale_kernel.cubin", "scale_kernel.json"]}'])
def test_a_broken_group_is_written_anew(
    compiled_kernels: CompiledKernels, upstream: Upstream, tmp_path: Path, damage: bytes
) -> None:
    """Empty, cut short, or a list of names: Triton 3.6 raises on each; afterwards it finds the kernel."""
    kernel = compiled_kernels.kernel()
    folder = emit(kernel, tmp_path).path
    (folder / GROUP).write_bytes(damage)
    assert emit(kernel, tmp_path).outcome == "busy"
    age(tmp_path)
    assert emit(kernel, tmp_path).outcome == "repaired"
    assert len(upstream.group(tmp_path, kernel) or {}) == len(kernel.files) - 1


def test_a_moved_cache_is_made_usable(compiled_kernels: CompiledKernels, upstream: Upstream, tmp_path: Path) -> None:
    """Its groups point to the first place, where nothing is any more; the group alone is written anew."""
    kernel = compiled_kernels.kernel()
    emit(kernel, tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "second")
    age(tmp_path)
    assert upstream.group(tmp_path / "second", kernel) == {}
    assert emit(kernel, tmp_path / "second").outcome == "repaired"
    assert len(upstream.group(tmp_path / "second", kernel) or {}) == len(kernel.files) - 1


@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_binary_is_replaced(compiled_kernels: CompiledKernels, tmp_path: Path, kept: float) -> None:
    """A finished group over a binary that was cut short: busy while young, then replaced as a whole."""
    kernel = compiled_kernels.kernel()
    folder = emit(kernel, tmp_path).path
    cubin = (folder / CUBIN).read_bytes()
    (folder / CUBIN).write_bytes(cubin[: int(len(cubin) * kept)])
    assert emit(kernel, tmp_path).outcome == "busy"
    age(tmp_path)
    assert emit(kernel, tmp_path).outcome == "repaired"
    assert collect(folder, 0) == kernel
    assert leftovers(tmp_path) == []


def test_the_rest_of_another_build_is_moved_aside(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """An old, unfinished folder of another build is replaced, never completed."""
    kernel = compiled_kernels.kernel()
    folder = emit(other_build(kernel), tmp_path).path
    (folder / GROUP).unlink()
    (folder / "extra").write_bytes(b"of the other build")
    age(tmp_path)
    assert emit(kernel, tmp_path).outcome == "repaired"
    assert collect(folder, 0) == kernel
    assert leftovers(tmp_path) == []


def test_a_lost_race_leaves_the_winner_and_no_leftovers(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process finishes its folder while ours is being written."""
    kernel = compiled_kernels.kernel()
    install = emit_module._install

    def late(temporary: str, target: str, aside: str | None) -> bool:
        shutil.copytree(compiled_kernels.directory / kernel.hash, target)
        return install(temporary, target, aside)

    monkeypatch.setattr(emit_module, "_install", late)
    done = emit(kernel, tmp_path)
    assert done.outcome == "lost_race"
    assert contents(done.path) == contents(compiled_kernels.directory / kernel.hash)
    assert leftovers(tmp_path) == []


def test_an_interruption_leaves_nothing(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a folder takes the temporary one along."""
    kernel = compiled_kernels.kernel()

    def interrupted(path: str, data: bytes) -> None:
        write_new(path, data)
        if path.endswith(".llir"):
            raise KeyboardInterrupt

    monkeypatch.setattr(emit_module, "write_new", interrupted)
    with pytest.raises(KeyboardInterrupt):
        emit(kernel, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_windows_way_gives_the_same_folder(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock, the empty folder removed, the rename; a folder with content is left to its owner."""
    monkeypatch.setattr(emit_module, "_WINDOWS", True)
    kernel = compiled_kernels.kernel()
    (tmp_path / kernel.hash).mkdir()
    assert emit(kernel, tmp_path).outcome == "emitted"
    assert collect(tmp_path / kernel.hash, 0) == kernel
    assert emit(kernel, tmp_path).outcome == "present"
    temporary = tmp_path / "tmp.x"
    temporary.mkdir()
    assert not emit_module._install(str(temporary), str(tmp_path / kernel.hash), None)


def test_a_folder_that_may_not_be_written_is_named(compiled_kernels: CompiledKernels, shared_folder: Path) -> None:
    """The error says which folder, and the system's reason."""
    kernel = compiled_kernels.kernel()
    with not_writable(shared_folder), pytest.raises(LocalCacheError) as caught:
        emit(kernel, shared_folder)
    assert str(shared_folder / kernel.hash) in str(caught.value)
    assert os.strerror(13) in str(caught.value)


def test_a_file_in_the_kernels_place_is_named(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """It is not ours to remove."""
    kernel = compiled_kernels.kernel()
    (tmp_path / kernel.hash).write_bytes(b"")
    with pytest.raises(LocalCacheError, match=kernel.hash):
        emit(kernel, tmp_path)


@pytest.mark.parametrize("missing", [GROUP, CUBIN, FACTS])
def test_half_a_kernel_is_refused(compiled_kernels: CompiledKernels, tmp_path: Path, missing: str) -> None:
    """Triton 3.6 would raise on it, so it never gets there."""
    with pytest.raises(FormatError, match="half a kernel"):
        emit(with_file(compiled_kernels.kernel(), missing, None), tmp_path)
    assert list(tmp_path.iterdir()) == []


def single(name: str, payload: bytes) -> Kernel:
    return Kernel("E" * 52, None, (KernelFile(name, payload),))


def test_single_files_share_a_folder(tmp_path: Path) -> None:
    """Modules for two versions of Python stand side by side, and what is there is not replaced."""
    first, second = single("m.cpython-310.so", b"one"), single("m.cpython-313.so", b"two")
    assert [emit(kernel, tmp_path).outcome for kernel in (first, second, first)] == ["emitted", "emitted", "present"]
    assert emit(single("m.cpython-310.so", b"built here"), tmp_path).outcome == "present"
    assert contents(tmp_path / first.hash) == {"m.cpython-310.so": b"one", "m.cpython-313.so": b"two"}
    assert leftovers(tmp_path) == []


def test_a_damaged_single_file_is_replaced_once_it_is_old(h200_vit: Path, tmp_path: Path) -> None:
    """A truncated module would be loaded, a truncated list of timings would raise."""
    (module,) = (h200_vit / "triton").rglob("cuda_utils*.so")
    for kernel, damage in (
        (collect(module.parent, 0), module.read_bytes()[:-1]),
        (single("add.autotune.json", b'{"key": []}'), b'{"key"'),
    ):
        assert kernel is not None
        path = emit(kernel, tmp_path).path / kernel.files[0].name
        path.write_bytes(damage)
        assert emit(kernel, tmp_path).outcome == "present"
        age(tmp_path)
        assert emit(kernel, tmp_path).outcome == "repaired"
        assert path.read_bytes() == kernel.files[0].payload
