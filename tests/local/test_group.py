"""Reading and writing `__grp__` files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kernels import CompiledKernels, file_of, with_file
from tritonsync.errors import FormatError
from tritonsync.local.group import baked_directories, children, is_group, launch_files, relocate_group

HASH = "A" * 52


def test_both_forms_of_a_group_are_read() -> None:
    """Names with paths, as FileCacheManager writes, and names only, as RemoteCacheManager does."""
    assert children(b'{"child_paths": {"k.json": "/c/k.json"}}') == {"k.json": "/c/k.json"}
    assert children(b'{"child_paths": ["k.cubin", "k.json"]}') == {"k.cubin": None, "k.json": None}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"child_paths": null}',
        b'{"child_paths": {}}',
        b'{"child_paths": 3}',
        b'{"child_paths": {"k": 3}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_group_is_none(payload: bytes) -> None:
    """Anything that lists nothing is no group, and nothing raises."""
    assert children(payload) is None


def test_only_json_files_with_the_prefix_are_groups() -> None:
    """`is_group` looks at both ends of a name."""
    assert is_group("__grp__k.json")
    assert not is_group("k.json")
    assert not is_group("__grp__k.cubin")


def test_baked_directories_are_those_named_by_the_hash() -> None:
    """A path counts only if its folder bears the kernel's hash."""
    group = json.dumps({"child_paths": {"a": f"/x/{HASH}/a", "b": f"/y/{HASH}/b", "c": "/z/other/c", "d": "d"}})
    assert baked_directories([group.encode(), b"broken"], HASH) == {f"/x/{HASH}", f"/y/{HASH}"}


def test_launch_needs_binary_facts_and_group(compiled_kernels: CompiledKernels) -> None:
    """Three files of eight."""
    assert launch_files(compiled_kernels.kernel()) == {
        "scale_kernel.cubin",
        "scale_kernel.json",
        "__grp__scale_kernel.json",
    }


def test_launch_of_an_unknown_backend_takes_everything(compiled_kernels: CompiledKernels) -> None:
    """Where no file is known to be the binary, none is left out."""
    kernel = compiled_kernels.kernel()
    binary = file_of(kernel, ".cubin")
    foreign = with_file(with_file(kernel, binary.name, None), "scale_kernel.npubin", binary.payload)
    assert launch_files(foreign) == {file.name for file in foreign.files}


def test_a_whole_group_is_placed_as_triton_wrote_it(compiled_kernels: CompiledKernels) -> None:
    """All files at the folder it was compiled in: the very bytes of the original."""
    kernel = compiled_kernels.kernel()
    group = file_of(kernel, "__grp__")
    folder = compiled_kernels.directory / kernel.hash
    placed = relocate_group(kernel, group.name, group.payload, {file.name for file in kernel.files}, str(folder))
    assert placed == (folder / group.name).read_bytes()


def test_a_group_lists_what_is_emitted(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """For fewer files, it lists exactly these, at their new place."""
    kernel = compiled_kernels.kernel()
    group = file_of(kernel, "__grp__")
    placed = relocate_group(kernel, group.name, group.payload, launch_files(kernel), str(tmp_path))
    assert json.loads(placed) == {
        "child_paths": {name: str(tmp_path / name) for name in ("scale_kernel.cubin", "scale_kernel.json")}
    }


def test_a_list_of_names_becomes_a_group_that_triton_reads(compiled_kernels: CompiledKernels) -> None:
    """RemoteCacheManager's form is never written: FileCacheManager fails on it."""
    kernel = compiled_kernels.kernel()
    name = file_of(kernel, "__grp__").name
    placed = relocate_group(kernel, name, b'{"child_paths": ["scale_kernel.json"]}', {"scale_kernel.json"}, "/c")
    assert json.loads(placed) == {"child_paths": {"scale_kernel.json": "/c/scale_kernel.json"}}


def test_half_a_kernel_has_no_group(compiled_kernels: CompiledKernels) -> None:
    """A group is refused if it cannot be read, or the kernel lacks its binary or its facts."""
    kernel = compiled_kernels.kernel()
    group = file_of(kernel, "__grp__")
    names = {file.name for file in kernel.files}
    with pytest.raises(FormatError, match="does not list"):
        relocate_group(kernel, group.name, b"", names, "/c")
    for suffix in (".cubin", ".json"):
        missing = file_of(kernel, suffix).name
        with pytest.raises(FormatError, match=f"lacks {missing}"):
            relocate_group(with_file(kernel, missing, None), group.name, group.payload, names - {missing}, "/c")
