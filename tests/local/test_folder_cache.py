"""Cache folders of other libraries on this host: what of them travels, and how it is put where it is missing."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

import pytest

from tests.folders import BINARY, HEX, LAYOUTS, STAYS, VARIABLES, contents, install, make_folder, write
from tritonsync.errors import FormatError, HostileNameError, LocalCacheError, UnsafeFolderError
from tritonsync.format.folder import FolderFile
from tritonsync.local import folder_cache
from tritonsync.local.files import HIDDEN_PREFIX, write_new
from tritonsync.local.folder_cache import ANYTHING, Place, absent, collect, place, snapshot, sweep
from tritonsync.local.presets import PRESETS, Part

ENTRY = f"cache/kernel.sm90_fp8_gemm_1d2d.{HEX * 2}"


def place_of(preset: str, folder: Path) -> Place:
    return Place(folder, PRESETS[preset].parts, PRESETS[preset].variable)


def files_in(found: Place) -> dict[str, bytes]:
    return {file.path: file.data for file in collect(found, snapshot(found))}


def travelling(preset: str) -> list[FolderFile]:
    return [FolderFile(path, data) for path, data in sorted(LAYOUTS[preset].items())]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_only_what_a_preset_knows_travels(preset: str, tmp_path: Path) -> None:
    """No locks, nothing unfinished, nothing of other caches in the same folder; and it comes back whole."""
    found = place_of(preset, make_folder(preset, tmp_path / "here"))
    assert files_in(found) == LAYOUTS[preset]
    target = place_of(preset, tmp_path / "there" / "deep")
    assert absent(target, LAYOUTS[preset])
    placed = place(target, travelling(preset))
    assert (placed.written, placed.present) == (len(LAYOUTS[preset]), 0)
    assert contents(target.path) == LAYOUTS[preset]
    assert not absent(target, LAYOUTS[preset])
    again = place(target, travelling(preset))
    assert (again.written, again.present) == (0, len(LAYOUTS[preset]))
    for path in STAYS[preset]:
        with pytest.raises((HostileNameError, FormatError)):
            place(place_of(preset, tmp_path / "other"), [*travelling(preset), FolderFile(path, b"{}")])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_folder_is_where_its_variable_says(preset: str, tmp_path: Path) -> None:
    """Else where the library has it by default, in the user's home or torch's cache folder."""
    assert PRESETS[preset].variable == VARIABLES[preset]
    find = PRESETS[preset].folder
    assert find({VARIABLES[preset]: str(tmp_path)}) == tmp_path
    default = find({})
    assert default.is_absolute()
    assert default.is_relative_to(Path.home()) or default.parts[-1] == "helion"
    assert find({VARIABLES[preset]: ""}) == default


def test_folders_that_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's home, FlashInfer's base, torch's folder for Helion, and DeepGEMM since it has deep_jit."""
    assert PRESETS["triton-autotune"].folder({"TRITON_HOME": "/a"}) == Path("/a/.triton/cache")
    assert PRESETS["flashinfer-autotune"].folder({"FLASHINFER_WORKSPACE_BASE": "/a"}) == Path(
        "/a/.cache/flashinfer/autotune"
    )
    assert PRESETS["helion"].folder({"TORCHINDUCTOR_CACHE_DIR": "/a"}) == Path("/a/helion")
    deepgemm = PRESETS["deepgemm"].folder
    assert deepgemm({}) == Path.home() / ".deep_gemm"
    install("sgl-deep-gemm", tmp_path, monkeypatch)
    record = tmp_path / "sgl_deep_gemm-2.1.dist-info" / "RECORD"
    record.write_text(f"deep_gemm/include/deep_jit/api.hpp,sha256=a,1\n{record.read_text()}")
    assert deepgemm({}) == Path.home() / ".dj"
    assert deepgemm({"DJ_JIT_CACHE_DIR": "/a:/b"}) == Path("/a")
    assert deepgemm({"DG_JIT_CACHE_DIR": "/c", "DJ_JIT_CACHE_DIR": "/a"}) == Path("/c")


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    """A file, a folder, or everything, whatever it holds; the rest is written."""
    found = place_of("deepgemm", write(tmp_path, {f"{ENTRY}/kernel.cubin": b"mine"}))
    placed = place(found, travelling("deepgemm"))
    assert (placed.written, placed.present) == (4, 2)
    assert contents(tmp_path / ENTRY) == {"kernel.cubin": b"mine"}
    helion = place_of("helion", write(tmp_path / "h", {f"{HEX * 4}.best_config": b"mine"}))
    assert place(helion, travelling("helion")).written == 0
    assert contents(helion.path) == {f"{HEX * 4}.best_config": b"mine"}
    driver = place_of("cuda-driver", write(tmp_path / "d", {"index": b"mine"}))
    assert place(driver, travelling("cuda-driver")).written == 0
    assert contents(driver.path) == {"index": b"mine"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    """As Triton makes one when it looks for a kernel, and the driver for its index."""
    (tmp_path / ENTRY).mkdir(parents=True)
    assert place(place_of("deepgemm", tmp_path), travelling("deepgemm")).written == 6
    (tmp_path / "d").mkdir()
    assert place(place_of("cuda-driver", tmp_path / "d"), travelling("cuda-driver")).written == 3


@pytest.mark.parametrize(
    ("path", "data"),
    [(f"{ENTRY}/kernel.cubin", BINARY[:40]), (f"{ENTRY}/kernel.cubin", b"text"), (f"{ENTRY}/meta.json", b"{")],
)
def test_damaged_files_go_nowhere(path: str, data: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A binary that was cut short, and JSON that is none: neither to the bucket, with a warning, nor from it."""
    found = place_of("deepgemm", write(make_folder("deepgemm", tmp_path / "here"), {path: data}))
    with caplog.at_level(logging.WARNING):
        assert not any(name.startswith(ENTRY) for name in files_in(found))
    assert path in caplog.text
    files = [file for file in travelling("deepgemm") if file.path != path] + [FolderFile(path, data)]
    with pytest.raises(FormatError):
        place(place_of("deepgemm", tmp_path / "there"), files)
    assert not (tmp_path / "there").exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither into a bucket nor out of the folder."""
    secret = write(tmp_path / "secret", {"kernel.cu": b"secret", "kernel.cubin": BINARY})
    here = tmp_path / "here"
    (here / ENTRY).mkdir(parents=True)
    (here / ENTRY / "kernel.cu").symlink_to(secret / "kernel.cu")
    (here / ENTRY / "kernel.cubin").write_bytes(BINARY)
    (here / "cache" / "kernel.b.1").symlink_to(secret)
    assert files_in(place_of("deepgemm", here)) == {}
    there = tmp_path / "there"
    there.mkdir()
    (there / "cache").symlink_to(secret)
    with pytest.raises(LocalCacheError, match="link"):
        place(place_of("deepgemm", there), travelling("deepgemm"))
    assert contents(secret).keys() == {"kernel.cu", "kernel.cubin"}
    (there / "cache").unlink()
    (there / ENTRY).parent.mkdir()
    (there / ENTRY).symlink_to(secret)
    assert place(place_of("deepgemm", there), travelling("deepgemm")).present == 2
    assert (there / ENTRY).is_symlink()


def test_a_folder_that_others_may_write_is_left_alone(tmp_path: Path) -> None:
    """Neither read nor written; the message names the variable."""
    found = place_of("tilelang", make_folder("tilelang", tmp_path / "here"))
    found.path.chmod(0o777)
    with pytest.raises(UnsafeFolderError, match="TILELANG_CACHE_DIR"):
        snapshot(found)
    with pytest.raises(UnsafeFolderError):
        place(found, travelling("tilelang"))


def test_of_too_much_the_newest_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Up to so many files and bytes, whole entries only, and the rest is counted."""
    found = place_of("helion", write(tmp_path, {f"{n:064}.best_config": b"{}" for n in range(4)}))
    for n in range(4):
        os.utime(tmp_path / f"{n:064}.best_config", (1000 + n, 1000 + n))
    monkeypatch.setattr(folder_cache, "MAX_FILES", 3)
    monkeypatch.setattr(folder_cache, "MAX_BYTES", 5)
    with caplog.at_level(logging.WARNING):
        assert sorted(files_in(found)) == [f"{n:064}.best_config" for n in (2, 3)]
    assert "2 older entries are left out" in caplog.text
    monkeypatch.setattr(folder_cache, "_MAX_SEEN", 3)
    with pytest.raises(LocalCacheError, match="more than 3 files"):
        snapshot(found)


def test_a_folder_of_ones_own_travels_whole(tmp_path: Path) -> None:
    """But for locks and what is being built, names that cannot travel, and what is too deep."""
    files = {"a": b"1", "b/c.bin": b"2", "b/.d": b"3"}
    others = ("x.lock", "tmpabc/y", "b/z.tmp", "b/.tmp-1", "a b", "/".join("cdefghijk"))
    found = Place(write(tmp_path, {**files, **dict.fromkeys(others, b"-")}), ANYTHING, "--bundle-dir")
    assert files_in(found) == files


def test_files_that_change_while_they_are_read_are_left_out(tmp_path: Path) -> None:
    """Gone, or of another size than a moment before; with all of their folder."""
    found = place_of("deepgemm", make_folder("deepgemm", tmp_path))
    before = snapshot(found)
    (tmp_path / ENTRY / "kernel.cu").write_bytes(b"longer than before")
    assert not any(file.path.startswith(ENTRY) for file in collect(found, before))
    (tmp_path / f"cache/sm90_bf16_gemm.{HEX}/meta.json").unlink()
    assert collect(found, before) == ()


def test_writers_that_race_leave_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second leaves the first one's, whether or not the file system has hard links."""
    target = place_of("helion", tmp_path / "h")
    name = f"{HEX * 4}.best_config"
    real = write_new

    def write_and_lose(path: str, data: bytes) -> None:
        real(path, data)
        write(target.path, {name: b"theirs"})

    monkeypatch.setattr(folder_cache, "write_new", write_and_lose)
    assert place(target, travelling("helion")).written == 0

    def no_links(*_: object) -> None:
        raise PermissionError(1, "no links here")

    (target.path / name).unlink()
    monkeypatch.setattr(os, "link", no_links)
    assert place(target, travelling("helion")).written == 0
    assert contents(target.path) == {name: b"theirs"}
    monkeypatch.setattr(folder_cache, "write_new", real)
    (target.path / name).unlink()
    assert place(target, travelling("helion")).written == 1
    assert contents(target.path) == dict(LAYOUTS["helion"])


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    """An hour later, and only ours."""
    found = place_of(
        "helion", write(tmp_path, {f"{HIDDEN_PREFIX}1-a": b"x", f"{HIDDEN_PREFIX}2-b": b"x", "tmp.a": b"x"})
    )
    long_ago = time.time() - 7200
    for name in (f"{HIDDEN_PREFIX}1-a", "tmp.a"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    sweep(found)
    assert set(contents(tmp_path)) == {f"{HIDDEN_PREFIX}2-b", "tmp.a"}
    os.utime(tmp_path / f"{HIDDEN_PREFIX}2-b", (long_ago, long_ago))
    sweep(place_of("cuda-driver", tmp_path / "beside"))
    assert set(contents(tmp_path)) == {"tmp.a"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_sweep_leaves_what_belongs_to_others(tmp_path: Path) -> None:
    """What a folder lies in may be shared; in a folder that is not ours nothing is touched at all."""
    found = place_of("cuda-driver", tmp_path / "beside")
    theirs, ours = tmp_path / f"{HIDDEN_PREFIX}1-a", tmp_path / f"{HIDDEN_PREFIX}2-b"
    long_ago = time.time() - 7200
    for path in (theirs, ours):
        path.mkdir()
        os.utime(path, (long_ago, long_ago))
    os.chown(theirs, 12345, 12345)
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(UnsafeFolderError, match=PRESETS["cuda-driver"].variable):
        sweep(found)
    assert ours.exists()
    os.chown(tmp_path, 0, 0)
    tmp_path.chmod(0o1777)
    sweep(found)
    assert [path.name for path in tmp_path.iterdir()] == [theirs.name]


def test_a_unit_is_what_its_part_says() -> None:
    """The table of presets is written by hand."""
    for preset in PRESETS.values():
        for part in preset.parts:
            assert isinstance(part, Part)
            assert isinstance(part.path, re.Pattern)
            assert part.needs == frozenset() or part.unit != "file"
