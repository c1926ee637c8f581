"""Other users of the host: folders that are theirs, links that lead elsewhere, and locks that they hold."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.kernels import CompiledKernels
from tritonsync import times
from tritonsync.errors import LocalCacheError, UnsafeFolderError
from tritonsync.format.bundle import Digest
from tritonsync.local import files, inductor_cache
from tritonsync.local.autotune import AutotuneResult, autotune_results, write_autotune
from tritonsync.local.emit import emit
from tritonsync.local.files import LOCKS, check_owner, host_lock, read_file, write_hidden
from tritonsync.local.presence import is_damaged, is_kernel_here, is_key_here, is_value_here
from tritonsync.local.triton_cache import collect, scan

needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
STRANGER = 12345
KEY = "f" + "a" * 51


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- whose folder it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o500, 0o770, 0o775, 0o2775])
def test_a_folder_of_ones_own_may_be_shared_with_a_group(mode: int, tmp_path: Path) -> None:
    """Its owner has decided so; many systems give every user a group of his own."""
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    check_owner(folder)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o757, 0o702])
def test_a_folder_that_everybody_may_write_into_is_refused(mode: int, tmp_path: Path) -> None:
    """With a sticky bit too: it protects what is there, not what is missing."""
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(
        UnsafeFolderError, match=rf"{folder} .*everybody .*mode {mode:o}.*TORCHINDUCTOR_CACHE_DIR"
    ) as bad:
        check_owner(folder)
    assert bad.value.path == str(folder)


def test_a_missing_folder_is_made_by_this_user(tmp_path: Path) -> None:
    """So is one whose parent is missing."""
    check_owner(tmp_path / "none")
    check_owner(tmp_path / "none" / "below")


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o1777, 0o777])
def test_a_missing_folder_may_be_made_where_others_make_theirs(mode: int, tmp_path: Path) -> None:
    """As in /tmp, or in a folder that an image has for everybody; however far above."""
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(mode)
    for folder in (above / "none", above / "none" / "below"):
        check_owner(folder)
    (above / "none").mkdir(mode=0o700)
    check_owner(above / "none")


@needs_root
def test_a_missing_folder_in_one_of_another_user_is_refused(tmp_path: Path) -> None:
    """With a sticky bit too, and also behind a link of his; with a link that leads nowhere."""
    above = tmp_path / "above"
    above.mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "not there")
    check_owner(tmp_path / "nowhere" / "none")
    for path in (above, tmp_path / "link", tmp_path / "nowhere"):
        check_owner(path / "none")
        os.lchown(path, STRANGER, STRANGER)
        with pytest.raises(UnsafeFolderError, match="belongs to another user"):
            check_owner(path / "none")
    above.chmod(0o1777)
    with pytest.raises(UnsafeFolderError, match="belongs to another user"):
        check_owner(above / "none")


@needs_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """Whoever made `/tmp/torchinductor_<name>` first could have put anything into it."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    os.chown(folder, STRANGER, STRANGER)
    with pytest.raises(UnsafeFolderError, match=rf"{folder} belongs to another user \(uid {STRANGER}\)"):
        check_owner(folder)


@needs_root
def test_a_link_of_another_user_is_refused(tmp_path: Path) -> None:
    """Whatever it leads to; one of our own, or of root, is as good as the folder."""
    folder, link = tmp_path / "cache", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    check_owner(link)
    os.lchown(link, STRANGER, STRANGER)
    with pytest.raises(UnsafeFolderError, match="another user"):
        check_owner(link)


@needs_root
def test_a_user_takes_a_folder_of_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root can change the program itself."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    check_owner(folder)
    os.chown(folder, STRANGER + 1, -1)
    with pytest.raises(UnsafeFolderError):
        check_owner(folder)


def test_a_mounted_folder_is_whose_it_was_mounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's volume may be open to everybody, as nobody else is there; public folders have a sticky bit."""
    volume = tmp_path / "volume"
    volume.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(volume))
    volume.chmod(0o2777)
    check_owner(volume)
    check_owner(volume / "none" / "below")
    volume.chmod(0o1777)
    with pytest.raises(UnsafeFolderError):
        check_owner(volume)


@needs_root
def test_root_takes_the_mounted_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what lies in it, of the same user; mounting takes root. Not where everybody could have made the folder."""
    volume, cache = tmp_path / "volume", tmp_path / "volume" / "cache"
    cache.mkdir(parents=True)
    for folder in (volume, cache):
        os.chown(folder, STRANGER, STRANGER)
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(volume))
    check_owner(volume)
    check_owner(cache)
    check_owner(cache / "none")
    os.chown(cache, STRANGER + 1, -1)
    with pytest.raises(UnsafeFolderError):
        check_owner(cache)
    tmp_path.chmod(0o1777)
    with pytest.raises(UnsafeFolderError):
        check_owner(volume)


def test_nothing_is_read_from_or_written_into_an_unsafe_folder(
    compiled_kernels: CompiledKernels, h200_vit: Path, tmp_path: Path
) -> None:
    """Every way in begins with the check."""
    cache = tmp_path / "cache"
    shutil.copytree(h200_vit, cache)
    before = tree(cache)
    for folder in (cache, cache / "triton"):
        folder.chmod(0o777)
    with pytest.raises(UnsafeFolderError):
        list(inductor_cache.values(cache))
    [graph] = cache.glob("fxgraph/*/*/*")
    with pytest.raises(UnsafeFolderError):
        inductor_cache.read_value(cache, inductor_cache.LocalValue("fx_graph", graph.parent.name, graph))
    with pytest.raises(UnsafeFolderError):
        list(scan(cache / "triton"))
    with pytest.raises(UnsafeFolderError):
        emit(compiled_kernels.kernel(), cache)
    with pytest.raises(UnsafeFolderError):
        write_hidden(cache, cache / "a" / "b", b"data", replace=True)
    with host_lock(cache, "name", timeout=5) as held:
        assert not held
    assert tree(cache) == before


# ---- links -----------------------------------------------------------------------------------------------------------


def test_a_kernel_folder_that_is_a_link_is_never_followed(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """It is not published, not counted as here, and what it leads to is not changed."""
    copied = compiled_kernels.copy(tmp_path / "elsewhere")
    kernel, cache = compiled_kernels.kernel(), tmp_path / "cache"
    (cache / "0").mkdir(parents=True)
    before = tree(copied.directory)
    for base in (cache, cache / "0"):
        link = base / kernel.hash
        link.symlink_to(copied.directory / kernel.hash)
        with pytest.raises(LocalCacheError, match="is a link"):
            collect(link, 0)
        assert not is_kernel_here(link)
        assert emit(kernel, base).outcome == "conflict"
        assert link.is_symlink()
    assert list(scan(cache)) == []
    (copied.directory / kernel.hash / "scale_kernel.cubin").unlink()
    assert emit(kernel, cache).outcome == "conflict"
    before.pop(f"{kernel.hash}/scale_kernel.cubin")
    assert tree(copied.directory) == before


def test_a_dangling_link_is_left_alone(compiled_kernels: CompiledKernels, tmp_path: Path) -> None:
    """Nothing is made where it leads."""
    kernel = compiled_kernels.kernel()
    (tmp_path / kernel.hash).symlink_to(tmp_path / "not there")
    assert emit(kernel, tmp_path).outcome == "conflict"
    assert not (tmp_path / "not there").exists()


@pytest.mark.parametrize("name", ["scale_kernel.cubin", "scale_kernel.json", "__grp__scale_kernel.json"])
def test_files_in_a_kernel_folder_that_are_links_are_not_followed(
    name: str, compiled_kernels: CompiledKernels, tmp_path: Path
) -> None:
    """A secret file of ours must not end up in a bucket, however much it looks like the kernel's."""
    copied = compiled_kernels.copy(tmp_path / "cache")
    kernel = compiled_kernels.kernel()
    folder = copied.directory / kernel.hash
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    assert collect(folder, 0) is None
    assert not is_kernel_here(folder)
    assert is_damaged(str(folder / name))
    secret = (tmp_path / "secret").read_bytes()
    assert emit(kernel, copied.directory).outcome == "conflict"
    assert (tmp_path / "secret").read_bytes() == secret


def test_values_that_are_links_are_not_followed(tmp_path: Path) -> None:
    """Neither read, nor counted as here, nor written through: where it has to be, the link itself is replaced."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"value")
    cache = tmp_path / "cache"
    path = inductor_cache.write_value(cache, "fx_graph", KEY, b"value").path
    path.unlink()
    path.symlink_to(secret)
    assert list(inductor_cache.values(cache)) == []
    with pytest.raises(LocalCacheError, match="is a link"):
        inductor_cache.read_value(cache, inductor_cache.LocalValue("fx_graph", KEY, path))
    digest = Digest(size=5, sha256="cd42404d52ad55ccfa9aca4adc828aa5800ad9d385a0671fbcbf724118320619")
    assert not is_value_here(cache, "fx_graph", KEY, digest)
    assert inductor_cache.write_value(cache, "fx_graph", KEY, b"value").outcome == "written"
    assert (path.is_symlink(), path.read_bytes(), secret.read_bytes()) == (False, b"value", b"value")
    assert is_value_here(cache, "fx_graph", KEY, digest)
    kept = cache / "dynamo" / "code_state_job.pkl"
    kept.parent.mkdir()
    kept.symlink_to(secret)
    assert not is_key_here(cache, "pgo", "job")
    assert inductor_cache.write_value(cache, "pgo", "job", b"new").outcome == "kept"
    assert secret.read_bytes() == b"value"


def test_an_autotune_result_that_is_a_link_stays_as_it_is(tmp_path: Path) -> None:
    """It is neither published nor written through, and stops nothing."""
    secret = tmp_path / "secret"
    secret.write_bytes(b'{"secret": 1}')
    cache = tmp_path / "cache"
    (cache / "ab").mkdir(parents=True)
    name = f"{'0' * 64}.best_config"
    (cache / "ab" / name).symlink_to(secret)
    assert autotune_results(cache) == ()
    assert write_autotune(cache, AutotuneResult("ab", name, b'{"ours": 1}')).outcome == "kept"
    assert secret.read_bytes() == b'{"secret": 1}'


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A pipe would be waited for without end, and a device read without end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(OSError, match="not a regular file"):
            read_file(path)
    (tmp_path / "file").write_bytes(b"data")
    assert read_file(str(tmp_path / "file")) == b"data"


# ---- locks -----------------------------------------------------------------------------------------------------------


def lock_file(cache: Path) -> Path:
    """Return the one lock file."""
    [found] = (cache / LOCKS).iterdir()
    return found


def test_locks_are_for_this_user_alone(tmp_path: Path) -> None:
    """File and folder, whatever the umask was, and where an earlier version made the folder for everybody."""
    before = os.umask(0)
    try:
        (tmp_path / "new").mkdir()
        (tmp_path / "old" / LOCKS).mkdir(parents=True)
        for cache in (tmp_path / "new", tmp_path / "old"):
            cache.chmod(0o755)
            with host_lock(cache, "name", timeout=5) as held:
                assert held
                assert stat.S_IMODE(lock_file(cache).stat().st_mode) == 0o600
                assert stat.S_IMODE((cache / LOCKS).stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_lock_file_that_is_a_link_empties_nothing(tmp_path: Path) -> None:
    """filelock before 3.20.1 cut the file to nothing that it led to."""
    with host_lock(tmp_path, "name", timeout=5):
        path = lock_file(tmp_path)
    path.unlink()
    (tmp_path / "precious").write_text("precious")
    path.symlink_to(tmp_path / "precious")
    with host_lock(tmp_path, "name", timeout=5) as held:
        assert not held
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_lock_folder_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    """Nothing is made where it leads; the work is done without the lock."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / LOCKS).symlink_to(tmp_path / "elsewhere")
    with host_lock(tmp_path, "name", timeout=5) as held:
        assert not held
    assert list((tmp_path / "elsewhere").iterdir()) == []


@needs_root
def test_a_lock_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    """He could hold every lock in it for ever."""
    (tmp_path / LOCKS).mkdir()
    os.chown(tmp_path / LOCKS, STRANGER, STRANGER)
    with host_lock(tmp_path, "name", timeout=5) as held:
        assert not held
    assert list((tmp_path / LOCKS).iterdir()) == []


def test_waiting_for_locks_is_capped_each_and_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds them may never let go; what is free is taken all the same."""
    monkeypatch.setattr(times, "LOCK_S", 0.3)
    monkeypatch.setattr(times, "LOCKS_S", 0.5)
    monkeypatch.setattr(files, "_waited_in_vain", 0.0)
    with host_lock(tmp_path, "name", timeout=None) as held:
        assert held
        waits = []
        for timeout in (120.0, None, 120.0, 120.0):
            started = time.perf_counter()
            # From another thread: a thread that holds a lock of a process gets it again.
            again: list[bool] = []

            def wait(timeout: float | None = timeout, again: list[bool] = again) -> None:
                with host_lock(tmp_path, "name", timeout=timeout) as second:
                    again.append(second)

            thread = threading.Thread(target=wait)
            thread.start()
            thread.join()
            waits.append(time.perf_counter() - started)
            assert again == [False]
        assert waits[0] >= 0.3
        assert sum(waits) < 5
        assert files._waited_in_vain == pytest.approx(0.5)
        with host_lock(tmp_path, "other", timeout=120) as free:
            assert free


def test_filelock_itself_does_not_follow_a_link(tmp_path: Path) -> None:
    """Every release that the package allows (from 3.20.3 on) refuses one."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock(tmp_path / "lock", timeout=1).acquire()
    assert (tmp_path / "precious").read_text() == "precious"
