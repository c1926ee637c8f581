"""What belongs to one rank of a job, through a bucket and through cache folders that ranks share."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import make_value
from tests.kernels import unprivileged
from tests.raw import RawBucket
from tritonsync.errors import FormatError, LocalCacheError
from tritonsync.format.bundle import Bundle
from tritonsync.format.ranks import Rank
from tritonsync.format.value import bundle_of_value
from tritonsync.local.files import make_own_folder
from tritonsync.local.inductor_cache import value_path, values, write_value
from tritonsync.local.owners import has_owners, is_owner, note_owner
from tritonsync.plugins import inductor
from tritonsync.session import session as sessions
from tritonsync.session.context import Host
from tritonsync.session.session import Session
from tritonsync.settings import Settings
from tritonsync.sync.caches import LocalCaches, restore
from tritonsync.sync.environment import host_environment
from tritonsync.sync.pull import pull
from tritonsync.sync.push import push

KEY = "f" + "a" * 51
RANKED = make_value("torch.ops._c10d_functional.all_reduce.default(buf0, 'sum', '0')")
PLAIN = make_value("def call(args): return args")


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[RawBucket]:
    with RawBucket(str(tmp_path / "bucket")) as bucket:
        yield bucket


def ranked(rank: Rank | None, key: str = KEY) -> Bundle:
    """Make the bundle of a value of this rank."""
    return bundle_of_value("fx_graph", key, make_value("DTensor", str(rank)), rank=rank)


def session(raw: RawBucket, folder: Path, rank: Rank | None) -> Session:
    """Start a session as it is in a process of this rank."""
    host = Host(lambda: LocalCaches.at(folder), lambda: "x86_64:avx2", host_environment, rank=lambda: rank)
    return Session(Settings(url=raw.url, workload="job", quiet=True), host)


def made(raw: RawBucket, folder: Path, rank: Rank, data: bytes) -> None:
    """Let a process of this rank make a value, as torch and the plugin do."""
    now = session(raw, folder, rank)
    now.note_value_made(data)
    write_value(folder, "fx_graph", KEY, data)
    now.enqueue_value("fx_graph", KEY, data)
    now.stop()


def offered(now: Session) -> list[bytes]:
    """Return what a lookup of torch is offered, if it takes none: from the folder, then from the bucket."""
    lookup = now.look_up("fx_graph", KEY)
    folder = value_path(now.host.caches().inductor, "fx_graph", KEY, "0" * 64).parent
    here = [path.read_bytes() for path in sorted(folder.glob("*"))]
    found = [data for data in here if not lookup.is_for_another(data)]
    while not lookup.is_done:
        found += [value.data for value in lookup.more()]
    now.stop()
    return found


def test_each_of_many_ranks_finds_its_own_and_no_other(raw: RawBucket) -> None:
    """However many there are, and only in a world of the same size; who does not know its rank finds none."""
    world = 24
    for rank in range(world):
        raw.store().publish(ranked(Rank(world, rank)))
    raw.store().publish(bundle_of_value("fx_graph", KEY, PLAIN))
    for rank in range(world):
        found = raw.store(rank=Rank(world, rank)).load("fx_graph", KEY)
        texts = [loaded.bundle.payloads[0].data for loaded in found.bundles]
        assert len(texts) == 2
        assert sum(str(Rank(world, rank)).encode() in text for text in texts) == 1
    for other in (None, Rank(8, 0), Rank(1, 0)):
        (loaded,) = raw.store(rank=other).load("fx_graph", KEY).bundles
        assert loaded.manifest.variant == "default"


def test_a_value_without_the_owner_it_needs_is_refused(tmp_path: Path) -> None:
    """Older versions published what belongs to a rank as everybody's; nothing of it is written."""
    bundle = Bundle(
        kind="fx_graph",
        key=KEY,
        payloads=ranked(Rank(2, 0)).payloads,
        value=ranked(Rank(2, 0)).value,
    )
    with pytest.raises(FormatError, match="one rank of a job"):
        restore(bundle, LocalCaches.at(tmp_path))
    multi = bundle_of_value("fx_graph", KEY, make_value("many = async_compile.multi_kernel('many', ["))
    with pytest.raises(FormatError, match="multi_kernel"):
        restore(multi, LocalCaches.at(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_share_a_folder_take_their_own(raw: RawBucket, tmp_path: Path) -> None:
    """What one rank made lies beside what the other one made, and each is offered what it made itself."""
    folder = tmp_path / "inductor"
    mine = {Rank(2, rank): make_value("DTensor", f"made by {rank}") for rank in range(2)}
    for rank, data in mine.items():
        made(raw, folder, rank, data)
    for rank, data in mine.items():
        assert offered(session(raw, folder, rank)) == [data]
        assert offered(session(raw, tmp_path / f"new-{rank.rank}", rank)) == [data]
    assert offered(session(raw, folder, Rank(4, 1))) == []


def test_what_the_bucket_brought_for_one_rank_is_not_for_the_next(raw: RawBucket, tmp_path: Path) -> None:
    """A value fetched into a shared folder has an owner there."""
    made(raw, tmp_path / "first", Rank(2, 0), RANKED)
    shared = tmp_path / "shared"
    assert offered(session(raw, shared, Rank(2, 0))) == [RANKED]
    assert [value.key for value in values(shared)] == [KEY]
    assert offered(session(raw, shared, Rank(2, 1))) == []
    assert offered(session(raw, shared, Rank(1, 0))) == []


def test_what_nobody_has_noted_is_taken_once_the_bucket_knows_it(raw: RawBucket, tmp_path: Path) -> None:
    """In a folder that torch filled alone a job trusts nothing that may be another rank's, but what the bucket says."""
    made(raw, tmp_path / "first", Rank(2, 0), RANKED)
    folder = tmp_path / "inductor"
    write_value(folder, "fx_graph", KEY, RANKED)
    assert offered(session(raw, folder, Rank(2, 1))) == []
    assert offered(session(raw, folder, Rank(2, 0))) == [RANKED]
    # Now there is a note, so that the next start asks for nothing.
    shutil.rmtree(raw.url)
    assert offered(session(raw, folder, Rank(2, 0))) == [RANKED]


def test_what_was_left_out_is_not_taken_for_refused(raw: RawBucket, tmp_path: Path) -> None:
    """A value that torch never saw is no reason to publish the same variant again."""
    made(raw, tmp_path / "first", Rank(2, 0), RANKED)
    folder = tmp_path / "inductor"
    write_value(folder, "fx_graph", KEY, RANKED)
    now = session(raw, folder, Rank(2, 0))
    lookup = now.look_up("fx_graph", KEY)
    assert lookup.is_for_another(RANKED)
    lookup.missed()
    now.enqueue_value("fx_graph", KEY, make_value("DTensor", "compiled all the same"))
    now.stop()
    assert len(raw.names(r"^bundles/fx_graph/.*/manifest\.json$")) == 1


def test_a_program_of_one_process_takes_what_it_finds(raw: RawBucket, tmp_path: Path) -> None:
    """Without ranks there is nothing to confuse: what lies in its folder is its own, noted or not."""
    write_value(tmp_path / "inductor", "fx_graph", KEY, RANKED)
    assert offered(session(raw, tmp_path / "inductor", Rank(1, 0))) == [RANKED]


def test_plain_values_are_published_once_for_all_ranks(raw: RawBucket, tmp_path: Path) -> None:
    """They have no owner, in the bucket or in a folder."""
    for rank in range(3):
        made(raw, tmp_path / f"{rank}", Rank(3, rank), PLAIN)
        assert not (tmp_path / f"{rank}" / ".tritonsync" / "ranks").exists()
    assert len(raw.names(r"^bundles/fx_graph/.*/manifest\.json$")) == 1
    assert offered(session(raw, tmp_path / "new", Rank(64, 63))) == [PLAIN]


def test_push_leaves_out_what_belongs_to_a_rank(
    raw: RawBucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot tell to which; it says so once, and publishes the rest."""
    folder = tmp_path / "inductor"
    for number in range(3):
        write_value(folder, "fx_graph", f"f{'b' * 50}{number}", make_value("DTensor", str(number)))
    write_value(folder, "fx_graph", f"f{'c' * 51}", make_value("async_compile.multi_kernel("))
    write_value(folder, "fx_graph", KEY, PLAIN)
    with caplog.at_level(logging.WARNING):
        push(raw.store(), LocalCaches.at(folder), folder / "triton", "job")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("1 value is left out: it was made with triton.multi_kernel")
    assert told[1].startswith("3 values are left out: made with DTensors")
    assert {name.split("/")[2] for name in raw.names("^bundles/fx_graph/")} == {KEY}


def test_pull_leaves_to_each_rank_what_is_its_own(raw: RawBucket, tmp_path: Path) -> None:
    """That is neither fetched nor missing."""
    for rank in range(2):
        made(raw, tmp_path / f"{rank}", Rank(2, rank), make_value("DTensor", f"made by {rank}"))
    pulled = pull(raw.store(), LocalCaches.at(tmp_path / "pulled"), "job")
    assert (pulled.of_ranks, pulled.missing, pulled.bundles) == (2, (), 1)
    assert list(values(tmp_path / "pulled")) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be two users")
def test_a_folder_that_root_prepared_serves_another_user(raw: RawBucket) -> None:
    """Who cannot read whose values are in there is given those that are for all ranks."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # unlike the folders of pytest
        for rank, data in ((Rank(2, 0), RANKED), (Rank(1, 0), PLAIN)):
            made(raw, Path(folder), rank, data)
        make_own_folder(Path(folder) / ".tritonsync")  # as whoever takes a lock does
        lookup = session(raw, Path(folder), Rank(1, 0)).look_up("fx_graph", KEY)
        with unprivileged():
            assert not lookup.is_for_another(PLAIN)
            with pytest.raises(LocalCacheError):
                lookup.is_for_another(RANKED)


def test_owners_are_noted_beside_each_other(tmp_path: Path) -> None:
    """Ranks that made the same bytes share a value, and noting it twice changes nothing."""
    assert not has_owners(tmp_path)
    for rank in (Rank(4, 1), Rank(4, 2), Rank(4, 1)):
        note_owner(tmp_path, "name", rank)
    assert has_owners(tmp_path)
    assert [rank for rank in range(4) if is_owner(tmp_path, "name", Rank(4, rank))] == [1, 2]
    assert not is_owner(tmp_path, "name", Rank(1, 0))
    assert not is_owner(tmp_path, "other", Rank(4, 1))
    assert is_owner(tmp_path, "other", Rank(1, 0))


def test_before_there_is_a_group_the_launcher_says_the_rank(tmp_path: Path) -> None:
    """`RANK` and `WORLD_SIZE`; where they are not set, or mean something else, there is one process."""
    url = str(tmp_path / "bucket")
    for variables, expected in (
        ({"RANK": "3", "WORLD_SIZE": "4"}, Rank(4, 3)),
        ({"RANK": "3"}, Rank(1, 0)),
        ({"RANK": "gold", "WORLD_SIZE": "4"}, Rank(1, 0)),
        ({"RANK": "-1", "WORLD_SIZE": "9" * 5000}, Rank(1, 0)),
        ({}, Rank(1, 0)),
    ):
        sessions.start(Settings.from_env({"TRITONSYNC_URL": url, "TRITONSYNC_QUIET": "1", **variables}))
        try:
            assert inductor._rank() == expected
        finally:
            sessions.stop()
