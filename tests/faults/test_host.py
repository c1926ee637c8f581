"""The host runs out of something: the error is one line, nothing half is left, and the next run finishes the work."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.kernels import CompiledKernels
from tests.raw import RawBucket
from tests.servers import Place
from tests.test_killed import check_bucket, check_caches
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.push import push

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts file systems of Linux")


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory, which only root may do."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.fixture(scope="module")
def bucket(h200_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bucket that holds a real cache as workload `vit`."""
    url = tmp_path_factory.mktemp("bucket") / "bucket"
    with RawBucket(str(url)) as raw:
        push(raw.store(), LocalCaches.at(h200_vit), h200_vit / "triton", "vit")
    return str(url)


def command(
    *arguments: object, before: Callable[[], None] | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command; whatever comes of it, it is no traceback."""
    line = [sys.executable, "-m", "tritonsync", *map(str, arguments)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("TRITONSYNC_", "TORCH"))}
    done = subprocess.run(
        line,
        env=environ | dict(variables or {}),
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def assert_one_line(done: subprocess.CompletedProcess[str], part: str) -> None:
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert part in lines[-1], done.stderr
    assert len(lines) <= 3, done.stderr


#: How much of the file system there is, what is said when it is used up, and what makes it enough.
SHORT = {
    "no space": ("size=400k", "No space left on device", "size=100m"),
    "no inodes": ("size=100m,nr_inodes=40", "No space left on device", "size=100m,nr_inodes=4000"),
    "read-only": ("size=100m,ro", "Read-only file system", "size=100m,rw"),
}


@pytest.mark.parametrize("what", SHORT)
def test_a_pull_into_a_full_disk(what: str, bucket: str, h200_vit: Path, tmp_path: Path) -> None:
    """What was written so far is whole, and when there is room again the next pull adds the rest."""
    options, said, more = SHORT[what]
    arguments = ("pull", "--url", bucket, "--workload", "vit", "--inductor-dir")
    with mounted(tmp_path / "disk", options) as disk:
        assert_one_line(command(*arguments, disk), said)
        check_caches(disk, h200_vit)
        assert [path.name for path in disk.rglob("*tmp.*")] == []
        remount(disk, more)
        done = command(*arguments, disk)
        assert (done.returncode, done.stderr.count("warning")) == (0, 0)
        check_caches(disk, h200_vit)
        assert len(list((disk / "triton" / "0").iterdir())) == 15


@pytest.mark.parametrize("what", SHORT)
def test_a_push_onto_a_full_disk(what: str, h200_vit: Path, tmp_path: Path) -> None:
    """Each manifest that is there has all that it promises, and when there is room the next push adds the rest."""
    options, said, more = SHORT[what]
    with mounted(tmp_path / "disk", options) as disk:
        arguments = ("push", "--url", disk / "bucket", "--workload", "vit", "--inductor-dir", h200_vit)
        assert_one_line(command(*arguments), said)
        with RawBucket(str(disk / "bucket")) as raw:
            check_bucket(raw)
            assert [path.name for path in disk.rglob(".tritonsync-*")] == []
            remount(disk, more)
            done = command(*arguments)
            assert done.returncode == 0, done.stderr
            assert check_bucket(raw) >= 4


#: Fails with EIO where it is asked to read, write or sync a file whose path holds $FAILING_PATH.
FAILING_DISK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int file, const char *call) {
    const char *calls = getenv("FAILING_CALLS"), *part = getenv("FAILING_PATH");
    char link[64], path[4096];
    if (!calls || !part || !strstr(calls, call)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, part)) return 0;
    errno = EIO;
    return 1;
}
ssize_t read(int file, void *to, size_t size) {
    if (fails(file, "read")) return -1;
    return ((ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read"))(file, to, size);
}
ssize_t write(int file, const void *from, size_t size) {
    if (fails(file, "write")) return -1;
    return ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(file, from, size);
}
int fsync(int file) {
    if (fails(file, "fsync")) return -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}
"""


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that, loaded before all others, makes a disk fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("library") / "failing.so"
    library.with_suffix(".c").write_text(FAILING_DISK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, library.with_suffix(".c"), "-ldl"], check=True)
    return library


def failing(library: Path, calls: str, path: str) -> Mapping[str, str]:
    return {"LD_PRELOAD": str(library), "FAILING_CALLS": calls, "FAILING_PATH": path}


@pytest.mark.parametrize("calls", ["write", "fsync"])
def test_a_push_onto_a_failing_disk(calls: str, failing_disk: Path, h200_vit: Path, tmp_path: Path) -> None:
    """An error of the disk is told in one line, and what did not reach it has no name there."""
    url = tmp_path / "bucket"
    arguments = ("push", "--url", url, "--workload", "vit", "--inductor-dir", h200_vit)
    assert_one_line(command(*arguments, variables=failing(failing_disk, calls, "bucket/bundles")), "Input/output error")
    with RawBucket(str(url)) as raw:
        check_bucket(raw)
        assert command(*arguments).returncode == 0
        assert check_bucket(raw) >= 4


def test_a_pull_onto_a_failing_disk(bucket: str, failing_disk: Path, h200_vit: Path, tmp_path: Path) -> None:
    """No kernel is half there, and the next pull brings them all."""
    arguments = ("pull", "--url", bucket, "--workload", "vit", "--inductor-dir", tmp_path / "here")
    assert_one_line(command(*arguments, variables=failing(failing_disk, "write", "here/")), "Input/output error")
    check_caches(tmp_path / "here", h200_vit)
    assert command(*arguments).returncode == 0
    assert len(list((tmp_path / "here" / "triton" / "0").iterdir())) == 15


def test_a_pull_from_a_failing_disk(bucket: str, failing_disk: Path, h200_vit: Path, tmp_path: Path) -> None:
    """A pack that cannot be read is told; what can be restored without it, is."""
    arguments = ("pull", "--url", bucket, "--workload", "vit", "--inductor-dir", tmp_path / "here")
    done = command(*arguments, variables=failing(failing_disk, "read", "pack.tar.zst"))
    assert "Input/output error" in done.stderr, done.stderr
    check_caches(tmp_path / "here", h200_vit)
    assert command(*arguments).returncode == 0
    assert len(list((tmp_path / "here" / "triton" / "0").iterdir())) == 15


def test_a_push_of_a_file_that_cannot_be_read(
    failing_disk: Path, compiled_kernels: CompiledKernels, tmp_path: Path
) -> None:
    """Its kernel is left out, with one warning; all others are published."""
    source = compiled_kernels.directory
    folders = sorted(path.parent.name for path in source.glob("*/*.cubin"))
    arguments = ("push", "--url", tmp_path / "bucket", "--workload", "w", "--triton-dir", source)
    done = command(*arguments, variables=failing(failing_disk, "read", folders[0]))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Input/output error") == 1, done.stderr
    with RawBucket(str(tmp_path / "bucket")) as raw:
        published = {name.split("/")[1] for name in raw.names("^kernels/.*cubin")}
    assert published == set(folders[1:])


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))


@pytest.mark.parametrize("kind", ["folder", "s3_place", "gcs_place"])
def test_few_file_descriptors(kind: str, request: pytest.FixtureRequest, h200_vit: Path, tmp_path: Path) -> None:
    """With 24 of them a command may fail, in one line; what it has done is whole, and more of them finish it."""
    url: str = str(tmp_path / "bucket")
    variables: Mapping[str, str] = {}
    if kind != "folder":
        place: Place = request.getfixturevalue(kind)
        url, variables = place.url, place.environment
    pushing = ("push", "--url", url, "--workload", "vit", "--inductor-dir", h200_vit)
    pulling = ("pull", "--url", url, "--workload", "vit", "--inductor-dir", tmp_path / "here")
    for arguments in (pushing, pulling):
        done = command(*arguments, before=few_descriptors, variables=variables)
        assert done.returncode in (0, 1)
        assert done.returncode == 0 or len(done.stderr.splitlines()) <= 3, done.stderr
        check_caches(tmp_path / "here", h200_vit)
        assert command(*arguments, variables=variables).returncode == 0
    check_caches(tmp_path / "here", h200_vit)
    assert len(list((tmp_path / "here" / "triton" / "0").iterdir())) == 15
