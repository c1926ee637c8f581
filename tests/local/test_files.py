"""Files that appear whole, and errors that name what they are about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernels import age
from tritonsync.errors import LocalCacheError
from tritonsync.local import files
from tritonsync.local.files import disk_errors, replace_file, temporary_path, write_hidden, write_new


def test_an_error_names_the_path_and_what_was_done(tmp_path: Path) -> None:
    """What was tried, on which path, and the system's reason; the cause is kept."""
    message = f"cannot read the value {tmp_path}: Is a directory"
    with pytest.raises(LocalCacheError, match=message) as caught, disk_errors("read the value", tmp_path):
        files.read_file(str(tmp_path))
    assert isinstance(caught.value.__cause__, IsADirectoryError)


def test_an_error_names_the_file_inside_a_folder(tmp_path: Path) -> None:
    """A folder's operation that fails at one file names both."""
    with pytest.raises(LocalCacheError, match=rf"{tmp_path} \(at {tmp_path}/none\)"), disk_errors("read", tmp_path):
        files.read_file(str(tmp_path / "none"))


def test_an_inner_error_keeps_its_message(tmp_path: Path) -> None:
    """Nested blocks do not translate twice."""
    inner = disk_errors("read", "inner")
    with pytest.raises(LocalCacheError, match=r"^cannot read inner"), disk_errors("read", "outer"), inner:
        raise OSError(5, "Input/output error")


def test_write_new_refuses_an_existing_file(tmp_path: Path) -> None:
    """Temporary names are never shared."""
    write_new(str(tmp_path / "file"), b"first")
    with pytest.raises(FileExistsError):
        write_new(str(tmp_path / "file"), b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


def test_write_new_writes_what_the_system_takes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write may take less than it was given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    write_new(str(tmp_path / "file"), b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_failed_replacement_leaves_the_old_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file goes, whatever was raised."""
    (tmp_path / "file").write_bytes(b"old")

    def interrupted(source: str, target: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_file(str(tmp_path / "file"), b"new", temporary_path(str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_temporary_paths_differ() -> None:
    """Two threads of one process never meet."""
    assert len({temporary_path("/c") for _ in range(100)}) == 100


def test_write_hidden_says_what_it_did(tmp_path: Path) -> None:
    """Written, present, kept, and written over if asked to."""
    path = tmp_path / "a" / "b"
    assert write_hidden(tmp_path, path, b"one", replace=False).outcome == "written"
    age(tmp_path)
    before = path.stat().st_ino, path.stat().st_mtime_ns
    assert write_hidden(tmp_path, path, b"one", replace=True).outcome == "present"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before
    assert write_hidden(tmp_path, path, b"two", replace=False).outcome == "kept"
    assert path.read_bytes() == b"one"
    assert write_hidden(tmp_path, path, b"two", replace=True).outcome == "written"
    assert path.read_bytes() == b"two"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a"]
