"""What the list of a workload tells about its writer, and what a reader still learns from it."""

from __future__ import annotations

import getpass
from pathlib import Path

import msgspec
import pytest

from tests.raw import RawBucket
from tritonsync.format.workload import Workload, WorkloadEntry, path_id, workload_of_manifest
from tritonsync.local.inductor_cache import default_inductor_dir, public_path
from tritonsync.session.workload import WorkloadRecord
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import pull
from tritonsync.sync.push import push


@pytest.fixture
def alice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home folder of a user of that name."""
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    monkeypatch.setenv("HOME", str(tmp_path / "homes" / "alice"))
    return tmp_path / "homes" / "alice"


def test_paths_are_told_without_home_and_name(alice: Path) -> None:
    """Wherever in the path they stand; what is no name of hers stays."""
    assert public_path(f"{alice}/.cache/inductor") == "~/.cache/inductor"
    assert public_path(str(alice)) == "~"
    assert public_path(str(default_inductor_dir())).endswith("torchinductor_<user>")
    assert public_path("/scratch/alice/x-alice.d") == "/scratch/<user>/x-<user>.d"
    assert public_path("/home/bob/cache") == "/home/<user>/cache"
    assert public_path("/Users/bob/cache") == "/Users/<user>/cache"
    assert public_path("/var/cache/malice/alices") == "/var/cache/malice/alices"
    assert public_path(f"{alice}s/cache") == f"{alice}s/cache"


def test_root_is_nobodys_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of a container stays as it is."""
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    monkeypatch.setenv("HOME", "/root")
    assert public_path("/tmp/torchinductor_root") == "/tmp/torchinductor_root"
    assert public_path("/root/cache") == "~/cache"


def test_a_push_does_not_name_the_writer(alice: Path, h200_vit: Path, tmp_path: Path) -> None:
    """A reader at another path still learns that it is another one, and one at the same that it is the same."""
    cache = alice / "cache"
    cache.parent.mkdir(parents=True)
    cache.symlink_to(h200_vit)
    with RawBucket(str(tmp_path / "bucket")) as raw:
        push(raw.store(), LocalCaches.at(cache), cache / "triton", "vit")
        for name in raw.names("^bundles/workload/"):
            assert b"alice" not in raw.read(name)
        [manifest] = raw.store().load("workload", "vit", have=lambda _: True).present
        listed = workload_of_manifest(manifest)
        assert listed.inductor_dir == "~/cache"
        there = pull(raw.store(), LocalCaches.at(tmp_path / "there"), "vit")
        assert (there.written_at, there.same_path) == ("~/cache", False)
        cache.unlink()
        here = pull(raw.store(), LocalCaches.at(cache), "vit")
        assert (here.written_at, here.same_path) == ("~/cache", True)


def test_a_program_does_not_name_the_writer(alice: Path, tmp_path: Path) -> None:
    """Its record is the same kind of list."""
    with RawBucket(str(tmp_path / "bucket")) as raw:
        record = WorkloadRecord("train")
        record.note("fx_graph", "key", "default")
        record.publish(raw.store(), f"{alice}/inductor", 10)
        for name in raw.names("^bundles/workload/"):
            assert b"alice" not in raw.read(name)


def test_lists_that_were_written_before_are_read() -> None:
    """They hold the path itself, and no id of it."""
    entry = WorkloadEntry(kind="fx_graph", key="key", variant="default")
    old = b'{"inductor_dir":"/tmp/torchinductor_bob","entries":[{"kind":"fx_graph","key":"key","variant":"default"}]}'
    listed = msgspec.json.decode(old, type=Workload)
    assert listed.entries == (entry,)
    assert listed.is_made_in("/tmp/torchinductor_bob")
    assert not listed.is_made_in("/tmp/torchinductor_alice")


def test_a_path_is_compared_by_its_id_where_there_is_one() -> None:
    """Two users whose folders are shown alike do not have the same path."""
    listed = Workload(inductor_dir="~/c", entries=(), path_id=path_id("/home/a/c"))
    assert listed.is_made_in("/home/a/c")
    assert not listed.is_made_in("/home/b/c")
    assert not listed.is_made_in("~/c")
