"""What a run leaves for the next one: the bundles it used, and the kernels of no graph."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from tests.kernels import CompiledKernels
from tests.raw import RawBucket
from tritonsync import times
from tritonsync.format.kernel import Kernel
from tritonsync.format.manifest import Environment
from tritonsync.format.workload import WorkloadEntry, bundle_of_part, is_part
from tritonsync.session.workload import WorkloadRecord, entries_of
from tritonsync.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return RawBucket(str(tmp_path / "bucket")).store()


class Run:
    """A run that has these kernels in its caches."""

    def __init__(self, store: Store, *kernels: Kernel) -> None:
        self.store, self.kernels = store, kernels
        self.record = WorkloadRecord("name")
        self.record.load(store)

    def know_parts(self, *kernels: Kernel) -> None:
        """Say what is in bundles of many, each of one kernel."""
        for kernel in kernels:
            bundle = bundle_of_part((kernel,))
            entry = WorkloadEntry(kind=bundle.kind, key=bundle.key, variant=bundle.variant)
            self.record.note_part(entry, frozenset({kernel.hash}))

    def use(self, *kernels: Kernel, publish: bool = True) -> None:
        for kernel in kernels:
            self.record.note("triton", kernel.hash, *(["default"] if publish else []))

    def end(self) -> None:
        if self.record.is_new():
            self.record.publish(self.store, "/inductor", 10, self.collect)

    def collect(self, keys: Collection[str]) -> Iterator[Kernel]:
        return (kernel for kernel in self.kernels if kernel.hash in keys)


def newest(store: Store) -> tuple[set[str], set[str]]:
    """Return the kernels that the newest record lists, and those that it holds."""
    [loaded] = store.load("workload", "name", newest=1).bundles
    return {entry.key for entry in entries_of(loaded.manifest)}, {kernel.hash for kernel in loaded.bundle.kernels}


def test_kernels_that_are_used_stay(store: Store, compiled_kernels: CompiledKernels) -> None:
    """A run keeps what it used of the last record, adds what is new, and drops the rest."""
    one, two, three, _ = compiled_kernels.kernels(None)
    first = Run(store, one, two)
    first.use(one, two)
    first.end()
    assert newest(store) == ({one.hash, two.hash}, {one.hash, two.hash})
    time.sleep(1.1)  # a run that begins in the second in which the last one ended might have overlapped it
    second = Run(store, one, two, three)
    second.use(one, publish=False)
    second.use(three)
    second.end()
    assert newest(store) == ({one.hash, three.hash}, {one.hash, three.hash})


def parts(store: Store) -> list[str]:
    """Return the kernels in bundles of many that the newest record lists."""
    [loaded] = store.load("workload", "name", newest=1).bundles
    listed = filter(is_part, entries_of(loaded.manifest))
    found = [store.load("triton", entry.key, variants=(entry.variant,)).bundles for entry in listed]
    return sorted(kernel.hash for bundles in found for each in bundles for kernel in each.bundle.kernels)


def test_more_kernels_than_one_bundle_is_to_hold_are_split(
    store: Store, compiled_kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is in one of them; a bundle that is still used stays as it is, one that is not goes."""
    monkeypatch.setattr("tritonsync.format.workload.MAX_PART", 1)
    one, two, three, four = compiled_kernels.kernels(None)
    first = Run(store, one, two, three)
    first.use(one, two, three)
    first.end()
    assert newest(store) == ({one.hash, two.hash, three.hash}, {three.hash})
    assert parts(store) == sorted([one.hash, two.hash])
    time.sleep(1.1)
    second = Run(store, one, four)
    second.know_parts(one, two)
    second.use(one, publish=False)
    second.use(four)
    second.end()
    assert newest(store) == ({one.hash, four.hash}, {four.hash})
    assert parts(store) == [one.hash]
    time.sleep(1.1)
    third = Run(store, two)  # knows nothing of the parts, which may hold what it has not used yet
    third.use(two)
    third.end()
    assert newest(store) == ({one.hash, two.hash}, {two.hash})
    assert parts(store) == [one.hash]


def test_a_bundle_of_many_with_an_unusable_kernel_is_packed_anew(
    store: Store, compiled_kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each next run would fetch it again, and compile the kernel again."""
    monkeypatch.setattr("tritonsync.format.workload.MAX_PART", 1)
    one, two, three, _ = compiled_kernels.kernels(None)
    first = Run(store, one, two)
    first.use(one, two)
    first.end()
    better = dataclasses.replace(three, hash=one.hash)  # another content under the name
    time.sleep(1.1)
    second = Run(store, two, better)
    second.know_parts(one)
    second.use(two, better)
    second.record.outdated()
    second.end()
    assert newest(store)[1] == {one.hash}
    assert parts(store) == [two.hash]


def test_a_run_with_nothing_new_leaves_the_record_alone(store: Store, compiled_kernels: CompiledKernels) -> None:
    """Unless something in it has proved unusable."""
    one, two, _, _ = compiled_kernels.kernels(None)
    first = Run(store, one, two)
    first.use(one, two)
    first.end()
    again = Run(store, one)
    again.use(one)
    assert not again.record.is_new()
    again.record.outdated()
    assert again.record.is_new()


def test_a_list_that_is_in_use_is_renewed_once_a_week(
    store: Store, compiled_kernels: CompiledKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a run that uses something of it; though nothing has changed, and nothing of it is lost."""
    one, two, three, _ = compiled_kernels.kernels(None)
    first = Run(store, one, two)
    first.use(one, two)
    first.end()
    [before] = store.load("workload", "name", newest=1).bundles
    monkeypatch.setattr(times, "RENEW_LIST_S", 2.0)
    soon = Run(store, one, two)
    soon.use(one, two, publish=False)
    assert not soon.record.is_new()
    time.sleep(3.1)
    for others in ((), (three,)):
        idle = Run(store, three)
        idle.use(*others, publish=False)
        assert not idle.record.is_new()
    late = [Run(store, one), Run(store, one, two)]
    for run in late:
        run.use(*run.kernels, publish=False)
        assert run.record.is_new()
        run.end()
        assert not run.record.is_new()
    assert newest(store) == ({one.hash, two.hash}, {one.hash, two.hash})
    after = store.load("workload", "name", newest=9).bundles
    assert len(after) == 2  # the second run found that the first had done it
    assert after[0].manifest.created > before.manifest.created
    assert after[0].manifest.payloads == before.manifest.payloads


def test_runs_that_overlap_add_to_each_other(store: Store, compiled_kernels: CompiledKernels) -> None:
    """The ranks of a job have different kernels in different caches; the next job finds all of them."""
    one, two, three, _ = compiled_kernels.kernels(None)
    ranks = [Run(store, one, two), Run(store, two, three)]
    for rank in ranks:
        rank.use(*rank.kernels)
    for rank in ranks:
        rank.end()
    everything = {one.hash, two.hash, three.hash}
    assert newest(store) == (everything, everything)


def test_a_kernel_that_is_gone_is_listed_all_the_same(store: Store, compiled_kernels: CompiledKernels) -> None:
    """It has a bundle of its own."""
    one, two, _, _ = compiled_kernels.kernels(None)
    run = Run(store, one)
    run.use(one, two)
    run.end()
    assert newest(store) == ({one.hash, two.hash}, {one.hash})


def test_another_program_of_the_same_name_is_noticed(
    store: Store, compiled_kernels: CompiledKernels, caplog: pytest.LogCaptureFixture
) -> None:
    """One that uses nothing of what the last one used, in the same place; said when it replaces the list."""
    one, two, three, _ = compiled_kernels.kernels(None)
    first = Run(store, one, two)
    first.use(one, two)
    first.end()
    time.sleep(1.1)  # else the two might have overlapped
    same = Run(store, one, three)
    same.use(one, three)
    same.end()
    assert "same name" not in caplog.text
    time.sleep(1.1)
    other = Run(store, two)
    other.use(two)
    other.end()
    assert "workload 'name' listed 2 graphs and kernels" in caplog.text
    assert "TRITONSYNC_WORKLOAD" in caplog.text
    moved = Run(store.on_host(cpu=None, environment=Environment(torch="9.9")), three)
    moved.use(three)
    caplog.clear()
    moved.end()
    assert "same name" not in caplog.text
