"""Inductor's folder: values found and written at torch's own places."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from tests.kernels import Upstream, age, not_writable
from tritonsync.errors import FormatError, HostileNameError, LocalCacheError
from tritonsync.local.files import HIDDEN_PREFIX, temporary_path
from tritonsync.local.inductor_cache import (
    LocalValue,
    default_inductor_dir,
    pgo_key,
    read_value,
    sweep,
    triton_dir,
    value_path,
    values,
    write_value,
)


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_values_are_written_where_torch_writes_them(upstream: Upstream, tmp_path: Path) -> None:
    """The same names for the same bytes and keys, so that each finds what the other wrote."""
    theirs, ours, data = tmp_path / "theirs", tmp_path / "ours", b"a pickled value"
    pgo = upstream("paths", str(theirs), base64.b64encode(data).decode(), "job/1:None:tag")["pgo"]
    Path(pgo).write_bytes(data)
    for kind, key in (
        ("fx_graph", "fgraphkey"),
        ("aot_autograd", "aotkey"),
        ("dynamo", "source-id"),
        ("pgo", "job/1:None:tag"),
    ):
        done = write_value(ours, kind, key, data)
        assert done.outcome == "written"
        assert done.path.read_bytes() == data
        assert write_value(theirs, kind, key, data).outcome == "present"
    assert files(ours) == files(theirs)
    assert len(files(ours)) == 4


def test_values_of_a_real_cache_are_found(h200_vit: Path) -> None:
    """One graph, one AOTAutograd value, with the keys that are their folders' names."""
    found = list(values(h200_vit))
    assert [(value.kind, value.key) for value in found] == [
        ("aot_autograd", "adfdldynojstk42r6kssqia5jbl4txl4utj4ruu6ch4kkbrka7dz"),
        ("fx_graph", "fjpzc354wiibahmbvpzaybrggekrm6wzy6lwhvidctq7eqhilhaa"),
    ]
    assert [len(read_value(h200_vit, value) or b"") for value in found] == [
        value.path.stat().st_size for value in found
    ]


def test_a_real_value_gets_its_own_name_back(h200_vit: Path, tmp_path: Path) -> None:
    """Names derive from the bytes, as torch derived them."""
    for value in values(h200_vit):
        done = write_value(tmp_path, value.kind, value.key, read_value(h200_vit, value) or b"")
        assert done.path.relative_to(tmp_path) == value.path.relative_to(h200_vit)


def test_all_kinds_are_found_again(tmp_path: Path) -> None:
    """What was written is found under the same kind and key; a PGO key as its file name has it."""
    for kind, key in (("fx_graph", "fkey"), ("aot_autograd", "akey"), ("dynamo", "0" * 64), ("pgo", "job:0:")):
        write_value(tmp_path, kind, key, b"value")
    write_value(tmp_path, "fx_graph", "fkey", b"with other guards")
    found = [(value.kind, value.key) for value in values(tmp_path)]
    assert found == [
        ("aot_autograd", "akey"),
        ("dynamo", "0" * 64),
        ("fx_graph", "fkey"),
        ("fx_graph", "fkey"),
        ("pgo", "job_0_"),
    ]
    assert list(values(tmp_path / "none")) == []


def test_files_that_are_no_values_are_passed_over(tmp_path: Path) -> None:
    """Temporary files of torch and of ours, locks of PGO, other people's files."""
    for name in (
        "fxgraph/ke/fkey/.123.456.tmp",
        "aotautograd/akey/.123.456.tmp",
        "dynamo/abc/.123.tmp",
        "dynamo/abc/notes",
        "dynamo/code_state_job.pkl.lock",
        "dynamo/code_state_job.pkl.tmp",
        "fxgraph/readme",
        "fxgraph/ke/readme",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(values(tmp_path)) == []


def test_an_equal_file_is_not_touched(tmp_path: Path) -> None:
    """Same bytes: not even its time changes."""
    path = write_value(tmp_path, "fx_graph", "fkey", b"value").path
    age(tmp_path)
    before = path.stat().st_ino, path.stat().st_mtime_ns
    assert write_value(tmp_path, "fx_graph", "fkey", b"value").outcome == "present"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


def test_a_damaged_value_is_replaced(tmp_path: Path) -> None:
    """A file whose bytes are not those of its name was cut short."""
    path = write_value(tmp_path, "aot_autograd", "akey", b"value").path
    path.write_bytes(b"val")
    assert write_value(tmp_path, "aot_autograd", "akey", b"value").outcome == "written"
    assert path.read_bytes() == b"value"


@pytest.mark.parametrize("kind", ["dynamo", "pgo"])
def test_what_this_host_made_is_kept(tmp_path: Path, kind: str) -> None:
    """A profile or package that is there stays, unless it is to be replaced."""
    path = write_value(tmp_path, kind, "key", b"local").path
    assert write_value(tmp_path, kind, "key", b"remote").outcome == "kept"
    assert path.read_bytes() == b"local"
    assert write_value(tmp_path, kind, "key", b"remote", replace=True).outcome == "written"
    assert path.read_bytes() == b"remote"


@pytest.mark.parametrize("kind", ["fx_graph", "aot_autograd", "dynamo"])
@pytest.mark.parametrize("key", ["..", ".", "", "a/b", "../../etc", "k\0", ".hidden", "x" * 256])
def test_keys_that_could_leave_the_folder_are_refused(tmp_path: Path, kind: str, key: str) -> None:
    """Keys come from a bucket, and become folders here."""
    with pytest.raises(FormatError):
        write_value(tmp_path, kind, key, b"value")
    assert files(tmp_path) == []


def test_a_key_whose_middle_is_a_path_part_is_refused(tmp_path: Path) -> None:
    """Characters 1 and 2 of an FX key are a folder of their own."""
    with pytest.raises(HostileNameError):
        write_value(tmp_path, "fx_graph", "f..graph", b"value")
    with pytest.raises(FormatError, match="no place"):
        write_value(tmp_path, "fx_graph", "fg", b"value")


def test_a_kind_without_a_place_is_refused(tmp_path: Path) -> None:
    """Kernels and workloads are no values of Inductor."""
    with pytest.raises(FormatError, match="no place"):
        value_path(tmp_path, "workload", "resnet", "0" * 64)


def test_pgo_keys_become_file_names() -> None:
    """As torch replaces the characters; doing it twice changes nothing."""
    assert pgo_key('a<b>c:d"e/f\\g|h?i*j') == "a_b_c_d_e_f_g_h_i_j"
    assert pgo_key(pgo_key("job:None:tag")) == "job_None_tag"


def test_a_value_that_is_gone_is_none(tmp_path: Path) -> None:
    """Somebody else cleaned up meanwhile."""
    assert read_value(tmp_path, LocalValue("fx_graph", "fkey", tmp_path / "none")) is None


def test_a_value_that_cannot_be_written_or_read_names_its_path(shared_folder: Path) -> None:
    """Both errors say which file it is about."""
    with pytest.raises(LocalCacheError, match=str(shared_folder)):
        read_value(shared_folder, LocalValue("fx_graph", "fkey", shared_folder))
    with not_writable(shared_folder), pytest.raises(LocalCacheError, match=f"{shared_folder}/fxgraph/ke/fkey"):
        write_value(shared_folder, "fx_graph", "fkey", b"value")


def test_sweep_removes_our_old_files_only(tmp_path: Path) -> None:
    """Hidden temporary files older than an hour."""
    old, foreign = Path(temporary_path(str(tmp_path), HIDDEN_PREFIX)), tmp_path / ".123.456.tmp"
    old.write_bytes(b"half a val")
    foreign.write_bytes(b"")
    age(tmp_path)
    fresh = Path(temporary_path(str(tmp_path), HIDDEN_PREFIX))
    fresh.write_bytes(b"")
    assert sweep(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([foreign.name, fresh.name])
    assert sweep(tmp_path / "none") == 0


def test_the_default_folder_is_that_of_torch(upstream: Upstream, tmp_path: Path) -> None:
    """With and without TORCHINDUCTOR_CACHE_DIR, and for a user whose name needs care."""
    assert str(default_inductor_dir()) == upstream("inductor_dir", None)
    odd = f"{tmp_path}/a/../b"
    assert str(default_inductor_dir(odd)) == upstream("inductor_dir", odd)
    assert default_inductor_dir(None, r"DOMAIN\anna:1").name == "torchinductor_DOMAIN_anna_1"


def test_the_default_folder_without_a_user_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container whose uid has no name, the number stands in."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert default_inductor_dir().name == f"torchinductor_uid_{os.getuid()}"


def test_kernels_lie_below_the_folder_or_where_triton_is_told(tmp_path: Path) -> None:
    """One folder a device, except where TRITON_CACHE_DIR decides."""
    assert triton_dir(tmp_path, 3) == tmp_path / "triton" / "3"
    assert triton_dir(tmp_path, None) == tmp_path / "triton" / "None"
    assert triton_dir(tmp_path, 3, "/c") == Path("/c")
