"""Finding, collecting and sweeping kernel folders."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest

from tests.kernels import CompiledKernels, Upstream, age, contents, not_writable, unprivileged
from tritonsync.errors import FormatError, LocalCacheError
from tritonsync.format.kernel import Kernel
from tritonsync.local import triton_cache
from tritonsync.local.files import temporary_path
from tritonsync.local.triton_cache import collect, default_triton_dir, scan, sweep

HASH = "B" * 52


def payloads(kernel: Kernel) -> dict[str, bytes]:
    return {file.name: file.payload for file in kernel.files}


def test_collect_equals_what_pytorch_collects(compiled_kernels: CompiledKernels, upstream: Upstream) -> None:
    """Byte for byte what TritonBundler puts into a graph value."""
    theirs = upstream.collect(compiled_kernels.directory, compiled_kernels.hashes)
    assert {kernel.hash: payloads(kernel) for kernel in compiled_kernels.kernels()} == theirs


def test_kernels_of_a_moved_cache_equal_those_in_its_graph_value(h200_vit: Path) -> None:
    """The path of the host that compiled them is taken out, though the folder lies elsewhere now."""
    (value,) = (path.read_bytes() for path in (h200_vit / "fxgraph").rglob("*") if path.is_file())
    folders = list(scan(h200_vit / "triton"))
    with_group = 0
    for folder in folders:
        kernel = collect(folder.path, folder.device)
        assert kernel is not None
        if kernel.name != kernel.hash:
            with_group += 1
            assert all(file.payload in value for file in kernel.files)
    assert (len(folders), with_group) == (15, 14)
    assert {folder.device for folder in folders} == {0}


def test_collect_takes_out_both_paths(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """A folder that was copied, and names its first and its present place, keeps neither."""
    copied = compiled_kernels.copy(tmp_path / "copy")
    folder = copied.directory / copied.hashes[0]
    facts = folder / "scale_kernel.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "dump": str(folder / "dump")}))
    kernel = collect(folder, 0)
    assert kernel is not None
    stored = payloads(kernel)
    assert json.loads(stored["scale_kernel.json"])["dump"] == "[REPLACE]/dump"
    assert stored["__grp__scale_kernel.json"] == payloads(compiled_kernels.kernel())["__grp__scale_kernel.json"]


def test_collect_takes_out_a_path_that_json_escapes(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Triton writes `é` as an escape; the path goes all the same."""
    folder = tmp_path / 'caf\u00e9 "1"' / compiled_kernels.hashes[0]
    shutil.copytree(compiled_kernels.directory / folder.name, folder)
    group = {name: str(folder / name) for name in contents(folder) if not name.startswith("__grp__")}
    (folder / "__grp__scale_kernel.json").write_text(json.dumps({"child_paths": group}))
    kernel = collect(folder, 0)
    assert kernel is not None
    assert json.loads(payloads(kernel)["__grp__scale_kernel.json"]) == {
        "child_paths": {name: f"[REPLACE]/{name}" for name in group}
    }


def test_collect_remembers_hash_and_device(compiled_kernels: CompiledKernels) -> None:
    """The hash is the folder's name, the device is what the caller says."""
    assert compiled_kernels.kernel(device=3).device == 3
    assert compiled_kernels.kernel(device=None).device is None
    assert compiled_kernels.kernel().hash == compiled_kernels.hashes[0]


def test_collect_of_nothing_is_none(tmp_path: Path) -> None:
    """No folder, an empty one, a file."""
    assert collect(tmp_path / HASH, 0) is None
    (tmp_path / HASH).mkdir()
    assert collect(tmp_path / HASH, 0) is None
    (tmp_path / ("C" * 52)).write_bytes(b"")
    assert collect(tmp_path / ("C" * 52), 0) is None


@pytest.mark.parametrize("missing", ["__grp__scale_kernel.json", "scale_kernel.cubin", "scale_kernel.ttir"])
def test_collect_of_an_unfinished_kernel_is_none(
    compiled_kernels: CompiledKernels, tmp_path: Path, missing: str
) -> None:
    """A compile in progress has no group; a group whose files are not all there is not finished."""
    copied = compiled_kernels.copy(tmp_path / "copy")
    folder = copied.directory / copied.hashes[0]
    (folder / missing).unlink()
    assert collect(folder, 0) is None


@pytest.mark.parametrize(("name", "kept"), [("__grp__scale_kernel.json", 0), ("scale_kernel.cubin", 0.9)])
def test_collect_of_a_damaged_kernel_is_none(
    compiled_kernels: CompiledKernels, tmp_path: Path, name: str, kept: float
) -> None:
    """An empty group and a truncated binary are not published."""
    copied = compiled_kernels.copy(tmp_path / "copy")
    file = copied.directory / copied.hashes[0] / name
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    assert collect(file.parent, 0) is None


def test_collect_ignores_files_still_being_written(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Triton's temporary folders and hidden files are no part of the kernel."""
    copied = compiled_kernels.copy(tmp_path / "copy")
    folder = copied.directory / copied.hashes[0]
    (folder / f"tmp.pid_1_{uuid.uuid4()}").mkdir()
    (folder / ".nfs0001").write_bytes(b"deleted by somebody")
    kernel = collect(folder, 0)
    assert kernel is not None
    assert payloads(kernel) == payloads(compiled_kernels.kernel())


def test_collect_takes_single_files(h200_vit: Path, tmp_path: Path) -> None:
    """Helper modules and timings never have a group."""
    (module,) = (h200_vit / "triton").rglob("cuda_utils*.so")
    kernel = collect(module.parent, 0)
    assert kernel is not None
    assert payloads(kernel) == {module.name: module.read_bytes()}
    timings = tmp_path / HASH / "add.autotune.json"
    timings.parent.mkdir()
    timings.write_text('{"key": [], "configs_timings": []}')
    kernel = collect(timings.parent, None)
    assert kernel is not None
    assert kernel.name == HASH


def test_collect_refuses_the_sentinel(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """A file that holds it could not be written back without damage."""
    copied = compiled_kernels.copy(tmp_path / "copy")
    facts = copied.directory / copied.hashes[0] / "scale_kernel.json"
    facts.write_text('{"name": "[REPLACE]"}')
    with pytest.raises(FormatError, match=r"scale_kernel\.json holds \[REPLACE\]"):
        collect(facts.parent, 0)


def test_collect_names_what_it_cannot_read(compiled_kernels: CompiledKernels, shared_folder: Path) -> None:
    """A file without read permission is an error, not half a kernel."""
    copied = compiled_kernels.copy(shared_folder / "copy")
    file = copied.directory / copied.hashes[0] / "scale_kernel.cubin"
    file.chmod(0)
    with unprivileged(), pytest.raises(LocalCacheError, match=str(file)):
        collect(file.parent, 0)


def test_collect_of_a_file_that_is_a_loop_names_it(tmp_path: Path) -> None:
    """The same, for root as well."""
    link = tmp_path / HASH
    link.symlink_to(link)
    with pytest.raises(LocalCacheError, match=HASH):
        collect(link, 0)


def test_scan_reads_both_layouts(tmp_path: Path) -> None:
    """`<hash>/` and `<device>/<hash>/`, and nothing else."""
    for name in (HASH, f"0/{HASH}", f"12/{HASH}", f"None/{HASH}", "tmp.x", f"{HASH[:-1]}", "1/tmp.y", "locks/a"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ("D" * 52)).write_bytes(b"")
    found = [(folder.device, folder.path.relative_to(tmp_path).as_posix()) for folder in scan(tmp_path)]
    assert found == [(None, HASH), (0, f"0/{HASH}"), (12, f"12/{HASH}"), (None, f"None/{HASH}")]
    assert all(folder.hash == HASH for folder in scan(tmp_path))


def test_scan_of_a_missing_folder_finds_nothing(tmp_path: Path) -> None:
    """A host that never compiled has no kernels."""
    assert list(scan(tmp_path / "none")) == []


def test_sweep_removes_old_leftovers_only(tmp_path: Path) -> None:
    """Ours, TritonBundler's and Triton's, if older than an hour; nothing else."""
    (tmp_path / HASH).mkdir()
    leftovers = [
        tmp_path / f"tmp.{uuid.uuid4()}",
        Path(temporary_path(str(tmp_path))),
        tmp_path / HASH / f"tmp.pid_77_{uuid.uuid4()}",
    ]
    bystanders = [tmp_path / "tmp.mine", tmp_path / HASH / "tmp.x", tmp_path / f"tmp.pid_1_{uuid.uuid4()}"]
    for folder in leftovers + bystanders:
        folder.mkdir()
        (folder / "file").write_bytes(b"half a fi")
    file = Path(temporary_path(str(tmp_path)))
    file.write_bytes(b"a temporary file")
    age(tmp_path)
    fresh = Path(temporary_path(str(tmp_path)))
    fresh.mkdir()
    assert sweep(tmp_path) == 4
    assert not any(path.exists() for path in [*leftovers, file])
    assert all(path.exists() for path in [*bystanders, fresh])
    assert sweep(tmp_path / "none") == 0


def test_sweep_leaves_what_it_may_not_remove(shared_folder: Path) -> None:
    """Another user's leftovers stay, and nothing is raised."""
    (shared_folder / f"tmp.{uuid.uuid4()}").mkdir()
    age(shared_folder)
    with not_writable(shared_folder):
        assert sweep(shared_folder) == 0


def test_default_folder_is_that_of_triton() -> None:
    """TRITON_CACHE_DIR, else below TRITON_HOME, else below the home folder."""
    assert default_triton_dir("/c", "/h") == Path("/c")
    assert default_triton_dir(None, "/h") == Path("/h/.triton/cache")
    assert default_triton_dir("", "") == Path.home() / ".triton" / "cache"


def test_collect_of_a_folder_that_changes_meanwhile(
    compiled_kernels: CompiledKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read while a file was replaced is read again; a folder that never rests gives nothing."""
    copied = compiled_kernels.copy(tmp_path / "copy")
    folder = copied.directory / copied.hashes[0]
    another_build = (copied.directory / copied.hashes[1] / "scale_kernel.cubin").read_bytes()
    changes = 1

    def read_file(path: str) -> bytes:
        nonlocal changes
        data = Path(path).read_bytes()
        if changes and path.endswith(".json"):
            changes -= 1
            (folder / "new").write_bytes(another_build)
            (folder / "new").rename(folder / "scale_kernel.cubin")
        return data

    monkeypatch.setattr(triton_cache, "read_file", read_file)
    kernel = collect(folder, 0)
    assert kernel is not None
    assert changes == 0
    assert payloads(kernel)["scale_kernel.cubin"] == another_build
    changes = 10**6
    assert collect(folder, 0) is None
