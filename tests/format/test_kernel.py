import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.strategies import contents, names, unique_files
from tritonsync.errors import FormatError, HostileNameError
from tritonsync.format.kernel import MAX_DEVICE, SENTINEL, Kernel, KernelFile, content_id, relocate_in, relocate_out
from tritonsync.format.value import split

FILES = (KernelFile("add.cubin", b"\x7fELF"), KernelFile("add.json", b"{}"), KernelFile("__grp__add.json", b"{}"))


@given(unique_files().flatmap(lambda files: st.tuples(st.just(files), st.permutations(files))))
def test_order_of_files_does_not_count(both: tuple[tuple[KernelFile, ...], list[KernelFile]]) -> None:
    """The same files in any order are the same kernel, with the same content id."""
    files, shuffled = both
    one, other = Kernel("HASH", 0, files), Kernel("HASH", 0, tuple(shuffled))
    assert one == other
    assert one.content_id == other.content_id


@given(unique_files(), st.data())
def test_content_id_names_names_and_bytes(files: tuple[KernelFile, ...], data: st.DataObject) -> None:
    """Another name, another byte, one file more: another content id."""
    kernel = Kernel("HASH", 0, files)
    extra = data.draw(names.filter(lambda name: all(file.name != name for file in files)))
    ids = {kernel.content_id, Kernel("HASH", 0, (*files, KernelFile(extra, b""))).content_id}
    if files:
        first, *rest = files
        changed = data.draw(contents.filter(lambda content: content != first.payload))
        ids.add(Kernel("HASH", 0, (KernelFile(first.name, changed), *rest)).content_id)
        ids.add(Kernel("HASH", 0, (KernelFile(extra, first.payload), *rest)).content_id)
    assert len(ids) == (4 if files else 2)


def test_content_id_is_fixed() -> None:
    """Buckets hold it in object names: it must never change."""
    assert content_id([("a", 1, "f" * 64)]) == "dfd318106510205a29927383c2f85d3b"
    assert Kernel("A", 0, FILES).content_id == Kernel("B", None, FILES).content_id


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".."])
def test_hostile_names_are_refused(name: str) -> None:
    """Neither a file nor a kernel can be named so that it leaves its folder."""
    with pytest.raises(HostileNameError):
        KernelFile(name, b"")
    with pytest.raises(HostileNameError):
        Kernel(name, 0, ())


def test_a_file_name_stands_once() -> None:
    """Two files of one name are refused."""
    with pytest.raises(FormatError, match="twice"):
        Kernel("HASH", 0, (KernelFile("a", b"1"), KernelFile("a", b"2")))


@pytest.mark.parametrize("device", [-1, MAX_DEVICE + 1])
def test_devices_have_bounds(device: int) -> None:
    """A device that no host has is refused."""
    with pytest.raises(FormatError, match="device"):
        Kernel("HASH", device, ())


def test_the_binary_names_the_kernel() -> None:
    """The kernel's name is that of its binary, else its hash; bytes stay out of the repr."""
    assert Kernel("HASH", 0, FILES).name == "add"
    assert Kernel("HASH", 0, FILES[1:]).name == "HASH"
    assert Kernel("HASH", 0, FILES).size == 8
    assert "ELF" not in repr(Kernel("HASH", 0, FILES))
    with pytest.raises(dataclasses.FrozenInstanceError):
        FILES[0].name = "x"  # type: ignore[misc]


@given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=30), names)
def test_paths_are_replaced_and_put_back(folder: str, name: str) -> None:
    """Triton's list of files survives the way through the bucket, whatever the folder is called."""
    directory = f"/{folder}/{'H' * 52}"
    group = json.dumps({"child_paths": {name: f"{directory}/{name}"}}).encode()
    if SENTINEL in group:
        return
    stored = relocate_out("__grp__x.json", group, (directory,))
    assert relocate_in("__grp__x.json", stored, directory) == group
    moved = json.loads(relocate_in("__grp__x.json", stored, '/else/"where"\\é'))
    assert moved == {"child_paths": {name: f'/else/"where"\\é/{name}'}}


def test_only_json_files_are_rewritten() -> None:
    """Binaries may hold the sentinel or the path; a `.json` that holds the sentinel could not be put back."""
    data = SENTINEL + b"/tmp/x"
    assert relocate_out("a.cubin", data, ("/tmp/x",)) == data
    assert relocate_in("a.cubin", data, "/tmp/y") == data
    with pytest.raises(FormatError, match="REPLACE"):
        relocate_out("a.json", data, ("/tmp/x",))


def test_folders_and_values_agree(vit_kernels: dict[str, Kernel], vit_fx: bytes) -> None:
    """On a real cache, the kernels that torch put into the FX value are those of the folders, byte for byte."""
    bundled = {kernel.hash: kernel for kernel in split(vit_fx).kernels}
    assert len(bundled) == 14
    assert bundled == vit_kernels


def test_real_groups_are_placed(h200_vit: Path, vit_kernels: dict[str, Kernel]) -> None:
    """After placing, a real group file lists paths in the new folder and nothing of the old one."""
    for kernel in vit_kernels.values():
        group = next(file for file in kernel.files if file.name.startswith("__grp__"))
        listed = json.loads(relocate_in(group.name, group.payload, "/new/place"))["child_paths"]
        assert listed == {file.name: f"/new/place/{file.name}" for file in kernel.files if file != group}
