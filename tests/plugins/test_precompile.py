"""What Dynamo made of a function starts the next worker, and only the very same function."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.plugins import ahead
from tests.plugins.conftest import Done, Worker
from tests.plugins.subjects import CHANGES, FILES, LASTING, LEFT_OUT
from tests.raw import RawBucket

PROGRAM = Path(__file__).with_name("precompiled.py")
ON = ("TRITONSYNC_PRECOMPILE", "TRITONSYNC_STRICT")
SUBJECTS = [name for name in FILES if name.startswith("subject_")]


def written(folder: Path, *, changed: bool) -> Path:
    """Write the modules of the program, as they are or with all of the changes."""
    folder.mkdir()
    for name, text in {**FILES, **LASTING, **LEFT_OUT}.items():
        for before, after in CHANGES.get(name, ()) if changed else ():
            assert before in text
            text = text.replace(before, after)
        (folder / f"{name}.py").write_text(text)
    return folder


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of the program."""

    done: Done

    def calls(self, part: str, name: str) -> list[dict[str, Any]]:
        """The calls of one name, whose numbers must be those of eager mode."""
        found = self.done.out[part][name]
        calls: list[dict[str, Any]] = found if isinstance(found, list) else [found]
        for call in calls:
            assert call["numbers"][0] == call["eager"][0], name
            assert call["numbers"][1:] == pytest.approx(call["eager"][1:], rel=1e-2), name
        return calls

    def traced(self, part: str, name: str) -> list[int]:
        """How many frames Dynamo traced in each of these calls."""
        return [call["traced"] for call in self.calls(part, name)]

    def outcomes(self, name: str) -> set[str]:
        """What became of the functions of a module, as reported."""
        told = [event for event in self.done.events if event["event"] == "precompile"]
        return {event["outcome"] for event in told if event["name"].split(".")[0] == name}


def run(worker: Worker, *arguments: object, bucket: Path, cache: Path | None = None) -> Run:
    """Run the program to its end: some forty functions, so it may take a while."""
    worker = dataclasses.replace(worker, program=PROGRAM)
    started = worker.start(*arguments, bucket=bucket, cache=cache, **dict.fromkeys(ON, "1"))
    done = worker.end(*started, timeout=400)
    assert done.code == 0, done.err
    return Run(done)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precompiled") / "bucket"


@pytest.fixture(scope="module")
def first(worker: Worker, bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that fills the bucket."""
    folder = written(tmp_path_factory.mktemp("first") / "program", changed=False)
    worker = dataclasses.replace(worker, program=PROGRAM)
    return Run(
        worker.run(folder, "subjects", "children", bucket=bucket, TRITONSYNC_PRECOMPILE="1", TRITONSYNC_STRICT="1")
    )


@pytest.fixture(scope="module")
def second(worker: Worker, first: Run, bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same program in another folder, with an empty cache."""
    assert first.done.compiled
    folder = written(tmp_path_factory.mktemp("second") / "elsewhere", changed=False)
    worker = dataclasses.replace(worker, program=PROGRAM)
    return Run(
        worker.run(
            folder, "subjects", "children", "states", bucket=bucket, TRITONSYNC_PRECOMPILE="1", TRITONSYNC_STRICT="1"
        )
    )


@pytest.fixture(scope="module")
def changed(worker: Worker, second: Run, bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The program with all of the changes, on a host where damaged results lie already."""
    assert second.done.out
    folder = written(tmp_path_factory.mktemp("changed") / "program", changed=True)
    cache = tmp_path_factory.mktemp("damaged")
    keys = {name.split("/")[2] for name in RawBucket(str(bucket)).names(r"^bundles/dynamo/")}
    for key in keys:
        (cache / "dynamo" / key).mkdir(parents=True)
        (cache / "dynamo" / key / "entry").write_bytes(b"\x80\x05damaged")
    worker = dataclasses.replace(worker, program=PROGRAM)
    return Run(
        worker.run(folder, "subjects", bucket=bucket, cache=cache, TRITONSYNC_PRECOMPILE="1", TRITONSYNC_STRICT="1")
    )


@pytest.mark.parametrize("name", [name for name in (*FILES, *LASTING) if name.startswith("subject_")])
def test_the_next_worker_traces_nothing(first: Run, second: Run, name: str) -> None:
    """A function of the same program is not traced at its first call, wherever the program lies."""
    assert sum(first.traced("subjects", name)) > 0
    assert "published" in first.outcomes(name)
    assert sum(second.traced("subjects", name)) == 0
    assert {"restored", "used"} <= second.outcomes(name)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_change_is_a_miss(changed: Run, name: str) -> None:
    """A function that does something else, by its source or by what it reaches, is compiled anew and right."""
    assert sum(changed.traced("subjects", name)) > 0
    assert "used" not in changed.outcomes(name)


def test_a_damaged_result_is_not_the_last_word(changed: Run) -> None:
    """What lies damaged on this host is passed over, and the bucket's is used."""
    assert changed.traced("subjects", "subject_lasting") == [0]
    assert changed.outcomes("subject_lasting") == {"refused", "restored", "used"}


@pytest.mark.parametrize(
    "name",
    [
        "dtype, loaded",
        *(f"{state}, {how}" for state in ("autocast", "no grad", "inference", "threads") for how in ("loaded", "anew")),
        "torch, anew",
        "configuration, anew",
        "rank, anew",
        "function, replaced",
        "backend, the other",
        "backend, the first again",
    ],
)
def test_another_state_is_a_miss(second: Run, name: str) -> None:
    """What torch was made to do otherwise, or is, is not served with what was made before."""
    assert second.traced("states", "as it was") == [0]
    assert second.traced("states", "as it was, again") == [0]
    assert second.traced("states", "before it is replaced") == [0]
    assert second.traced("states", name) == [1]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_cannot_be_compared_is_left_out(first: Run, second: Run, name: str) -> None:
    """A function of which something would not be noticed elsewhere is compiled as ever, and the report says why."""
    for run in (first, second):
        assert sum(run.traced("subjects", name)) > 0
        told = [event for event in run.done.events if event["event"] == "precompile"]
        reasons = [event["reason"] for event in told if event["outcome"] == "left out"]
        assert all(reasons)
        assert len(reasons) >= len(LEFT_OUT)
        assert "published" not in run.outcomes(name)


def test_children_publish_and_are_served(first: Run, second: Run) -> None:
    """A child publishes what it compiled before it ends, and the children of the next run trace nothing."""
    assert first.traced("children", "fork") == [1]
    for method in ("fork", "spawn"):
        assert second.traced("children", method) == [0]


def test_what_is_here_is_loaded_ahead(worker: Worker, tmp_path: Path) -> None:
    """By `torch.compile`, not while modules are imported; it serves the first call that asks for it, and no other."""
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "subject.py").write_text(ahead.SUBJECT)
    worker = dataclasses.replace(worker, program=Path(ahead.__file__))
    where: dict[str, Any] = {"bucket": tmp_path / "bucket", "cache": tmp_path / "cache", **dict.fromkeys(ON, "1")}
    first = worker.run(tmp_path / "program", "decorated", "same", **where).out
    second = worker.run(tmp_path / "program", "decorated", "same", "grad", "forgotten", "patched", **where).out
    for each in (*first.values(), *second.values()):
        assert each["numbers"] == pytest.approx(each["eager"])
    assert {part: (each["before"], each["traced"]) for part, each in first.items()} == {
        "decorated": (0, 1), "same": (0, 1),
    }  # fmt: skip
    assert {part: (each["before"], each["traced"]) for part, each in second.items()} == {
        "decorated": (0, 0), "same": (1, 0), "grad": (1, 1), "forgotten": (1, 0), "patched": (1, 1),
    }  # fmt: skip


@pytest.mark.parametrize("state", ahead.STATES)
def test_what_is_loaded_ahead_serves_in_the_state_in_which_it_was_made(
    worker: Worker, tmp_path: Path, state: str
) -> None:
    """Which the program switches on after `torch.compile`, as a training step does with autocast."""
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "subject.py").write_text(ahead.SUBJECT)
    worker = dataclasses.replace(worker, program=Path(ahead.__file__))
    where: dict[str, Any] = {"bucket": tmp_path / "bucket", "cache": tmp_path / "cache", **dict.fromkeys(ON, "1")}
    found = [worker.run(tmp_path / "program", state, **where).out[state] for _ in range(2)]
    assert [(each["before"], each["traced"]) for each in found] == [(0, 1), (1, 0)]
    for each in found:
        assert each["numbers"] == pytest.approx(each["eager"], rel=0.01)  # bfloat16


def test_triton_hashes_itself_ahead(fresh_worker: Worker, tmp_path: Path) -> None:
    """On a thread, once, where PyTorch is built for GPUs; a program of another PyTorch is left alone."""
    program = tmp_path / "program.py"
    program.write_text(AHEAD)
    worker = dataclasses.replace(fresh_worker, program=program)
    done = worker.run(bucket=tmp_path / "bucket", TRITONSYNC_PRECOMPILE="1", TRITONSYNC_STRICT="1")
    assert done.out == {"without_gpu": [], "with_gpu": ["tritonsync-triton-key"], "hashed": 1}


AHEAD = """
import json, threading
import torch, torch._dynamo
from tritonsync.plugins.precompile_process import hash_triton_ahead

def names():
    return [thread.name for thread in threading.enumerate() if thread.name == "tritonsync-triton-key"]

for thread in threading.enumerate():
    if thread.name in names():  # of the activation, where PyTorch is built for GPUs
        thread.join()
        import triton.runtime.cache
        triton.runtime.cache.triton_key.cache_clear()
torch.version.cuda = None
hash_triton_ahead()
out = {"without_gpu": names()}
torch.version.cuda = "13.0"
hash_triton_ahead()
out["with_gpu"] = names()
for thread in threading.enumerate():
    if thread.name in names():
        thread.join()
import triton.runtime.cache
out["hashed"] = triton.runtime.cache.triton_key.cache_info().currsize
print(json.dumps(out))
"""
