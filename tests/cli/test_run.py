"""What `tritonsync run` ends with: the program's own exit code, whatever becomes of the report."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.test_errors import assert_one_line
from tritonsync.cli.why import why_compiled
from tritonsync.settings import Settings
from tritonsync.watch.run import Watched


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inductor's folder, where the report of the last run is kept."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRITONSYNC_URL", str(tmp_path / "bucket"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "place", ["none/x.json", "", "file/x.json", "protected/x.json", "protected.json", "link", "pipe"]
)
def test_a_report_that_cannot_be_written_is_said_before_the_program_runs(
    place: str, child: Run, tmp_path: Path
) -> None:
    """Not after it has run for hours."""
    (tmp_path / "file").touch()
    (tmp_path / "protected").mkdir(mode=0o555)
    (tmp_path / "protected.json").touch(mode=0o444)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    # Root may write everywhere.
    before = (
        "import os; os.access = lambda path, mode: mode != os.W_OK or 'protected' not in str(path)"
        if os.geteuid() == 0
        else ""
    )
    ran = child("run", "--report", tmp_path / place, "--", "touch", tmp_path / "ran", before=before)
    assert_one_line(ran, f"--report {tmp_path / place}")
    assert not (tmp_path / "ran").exists()


def test_what_is_kept_of_a_run_is_for_its_user(child: Run, tmp_path: Path, cache: Path) -> None:
    """No secret of its command is in it; no other user may read a new file; the mode of one that was there stays."""
    (tmp_path / "old.json").touch()
    (tmp_path / "old.json").chmod(0o640)
    for name, mode in (("new.json", 0o600), ("old.json", 0o640)):
        report, last = tmp_path / name, cache / ".tritonsync" / "last-run.json"
        child("run", "--report", report, "--", "true", "--api-key", "hunter2", "--steps", "3")
        for path, expected in ((report, mode), (last, 0o600)):
            assert json.loads(path.read_text())["command"] == "true --api-key *** --steps 3"
            assert path.stat().st_mode & 0o777 == expected


def test_a_report_whose_place_goes_meanwhile(child: Run, tmp_path: Path, cache: Path) -> None:
    """The program's exit code is kept, and so is the report, for `tritonsync why`."""
    (tmp_path / "place").mkdir()
    ran = child("run", "--report", tmp_path / "place" / "x.json", "--", "sh", "-c", f"rmdir {tmp_path}/place; exit 7")
    assert (ran.code, ran.out) == (7, "")
    assert ran.err.startswith(f"tritonsync: --report {tmp_path}/place/x.json cannot be written: FileNotFoundError")
    assert len(ran.err.splitlines()) == 1
    assert json.loads((cache / ".tritonsync" / "last-run.json").read_text())["exit_code"] == 7


def test_a_report_is_not_written_through_a_link(child: Run, tmp_path: Path) -> None:
    """Somebody else may have put it there while the program ran; the report takes its place."""
    (tmp_path / "mine").write_text("mine")
    ran = child("run", "--report", tmp_path / "x.json", "--", "ln", "-s", tmp_path / "mine", tmp_path / "x.json")
    assert (ran.code, ran.err) == (0, "")
    assert (tmp_path / "mine").read_text() == "mine"
    assert json.loads((tmp_path / "x.json").read_text())["exit_code"] == 0


def test_a_child_that_outlives_the_program_and_still_reports(child: Run, tmp_path: Path) -> None:
    """What it writes while the folder is removed does not change the exit code."""
    writing = "for i in {1..20000}; do echo '{}' > $TRITONSYNC_REPORT_DIR/$i.jsonl || exit; done"
    program = f"({writing}) > /dev/null 2>&1 & sleep 0.2; exit 7"
    ran = child("run", "--", "bash", "-c", program, TMPDIR=str(tmp_path))
    assert (ran.code, ran.out, ran.err) == (7, "", "")


@pytest.mark.parametrize("line", ['{"event": "counts"}', '{"event": "counts", "counts": {"hits": "x"}}', "[1]", "7"])
def test_reports_that_make_no_sense(line: str, child: Run) -> None:
    """Anybody can write there, and nobody's exit code is lost for it."""
    program = f"echo '{line}' > $TRITONSYNC_REPORT_DIR/1.jsonl; exit 7"
    ran = child("run", "--json", "--", "sh", "-c", program)
    assert (ran.code, ran.json["exit_code"]) == (7, 7)
    assert "Traceback" not in ran.err
    assert child("run", "--assert-warm", "--", "sh", "-c", program.replace("7", "0")).code == 3


def test_an_output_that_is_full_does_not_change_the_exit_code(child: Run, tmp_path: Path) -> None:
    """The disk may fill up while the program runs."""
    command = "import os, sys; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
    ran = child("run", "--json", "--", "sh", "-c", "exit 7", before=command, PYTHONUNBUFFERED="")
    assert ran.code == 7
    assert ran.err == "tritonsync: what was seen cannot be printed: OSError: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("part", ["host_here", "explain"])
def test_why_something_was_compiled_never_fails(part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of each graph and kernel it says that it is not known."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("what nobody thought of")

    monkeypatch.setattr(f"tritonsync.sync.{'here' if part == 'host_here' else 'why'}.{part}", fail)
    events = ({"event": "graph", "name": "g", "key": "g"}, {"event": "kernel", "name": "k", "hash": "0" * 64})
    watched = Watched(0, 1, ("g",), ("k",), (), (), (), {}, compiled=tuple((event, {}) for event in events))
    whys = why_compiled(watched, Settings(url=str(tmp_path)), None)
    assert [(why["kind"], why["name"], why["state"]) for why in whys] == [
        ("fx_graph", "g", "not asked"),
        ("triton", "k", "not asked"),
    ]
    assert "ZeroDivisionError: what nobody thought of" in whys[0]["reason"]
