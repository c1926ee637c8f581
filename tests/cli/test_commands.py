"""What every command has: help with an example, JSON, one style of errors, and buckets of every kind."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from tests.cli.conftest import Run
from tests.raw import RawBucket
from tests.servers import Place
from tritonsync.cli.app import COMMANDS, app
from tritonsync.cli.progress import Moved, standing

NAMES = [command.__name__ for command, _ in COMMANDS]


@pytest.fixture(scope="session")
def small_cache(h200_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with one graph of the real one, so that a bucket on loopback has it quickly."""
    [value] = (h200_vit / "aotautograd").glob("*/*")
    target = tmp_path_factory.mktemp("small") / value.relative_to(h200_vit)
    target.parent.mkdir(parents=True)
    target.write_bytes(value.read_bytes())
    return target.parents[2]


@pytest.fixture(params=["folder", "s3", "gcs"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket of each kind, which commands reach as a user's would."""
    if request.param == "folder":
        (tmp_path / "bucket").mkdir()
        yield str(tmp_path / "bucket")
        return
    place: Place = request.getfixturevalue({"s3": "s3_place", "gcs": "gcs_place"}[request.param])
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    yield place.url


def test_every_command_works_on_every_kind_of_bucket(run: Run, url: str, small_cache: Path, tmp_path: Path) -> None:
    """As text and as one JSON object, with the bucket in the variable; nothing is said on stderr but notes."""

    def both(*arguments: object) -> dict[str, object]:
        text = run(*arguments, TRITONSYNC_URL=url)
        assert text.code == 0, text.err
        assert text.out
        ran = run(*arguments, "--json", TRITONSYNC_URL=url)
        assert ran.code == 0, ran.err
        return ran.json

    push = ("push", "--workload", "small", "--inductor-dir", small_cache)
    assert both(*push, "--dry-run")["bundles_new"] == 2
    assert both(*push)["bundles_new"] == 0  # the second time
    pull = ("pull", "--workload", "small", "--inductor-dir", tmp_path / "here", "--strict")
    assert both(*pull, "--dry-run")["bundles"] == both(*pull)["bundles"] == 2
    assert both("ls", "--workload", "small")["bundles_total"] == 2
    assert both("show", "small")["kernels"] == []
    assert both("verify", "small")["bad"] == []
    assert both("verify")["bundles"] == 2
    assert both("du", "--by", "kind")["bundles"] == 2
    assert both("doctor", "--inductor-dir", small_cache)["fail"] == 0
    assert both("bench")["left"] == 0
    assert both("gc", "--older-than", "1d", "--dry-run")["bundles"] == []
    assert len(both("rm", "small", "--dry-run")["bundles"]) == 2  # type: ignore[arg-type]
    program = [sys.executable, "-c", "import os; print(os.environ['TRITONSYNC_URL'])"]
    watched = run("run", "--url", url, "--mode", "read-only", "--json", "--", *program)
    assert (watched.code, watched.json["exit_code"]) == (0, 0)
    assert run("rm", "small", TRITONSYNC_URL=url).code == 0
    assert run("ls", "--json", TRITONSYNC_URL=url).json["bundles"] == []


@pytest.mark.parametrize(("name", "example"), [(command.__name__, example) for command, example in COMMANDS])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help_with_an_example(name: str, example: str, option: str, run: Run) -> None:
    """Which the program takes: its options are among those of the command."""
    ran = run(name, option, COLUMNS="80")
    assert ran.code == 0
    assert f"Example: {example}" in " ".join(ran.out.split())
    assert "--json" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    words = shlex.split(example)
    assert words[:2] == ["tritonsync", name]
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    known = {opt for parameter in command.params for opt in parameter.opts}
    own = words[: words.index("--")] if "--" in words else words
    assert {word for word in own if word.startswith("--")} <= known


def test_the_program_has_help_and_a_version(run: Run, child: Run) -> None:
    """Also without an argument; the help says what exit codes mean."""
    help_text = run("--help").out
    assert run("-h").out == run().out == help_text
    assert run().code == 0
    assert "Exit codes: 0 done; 1 failed" in help_text
    assert all(f"  {name} " in help_text for name in NAMES)
    assert child("--version").out == run("--version").out == run("version").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str) -> None:
    """With what `--install-completion` installs for them."""
    words = {"COMP_WORDS": "tritonsync pu", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "tritonsync pu"}
    environ = {
        **os.environ,
        **words,
        "_TRITONSYNC_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    program = "import sys; sys.argv = ['tritonsync']; from tritonsync.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)
    assert "push" in done.stdout
    assert "pull" in done.stdout or shell == "fish"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("ls", "--url", "s3://"), 1, {"kind": "SettingsError", "url": "s3://", "hint": "write s3://bucket/prefix"}),
        (("ls", "--url", "/no/such/folder"), 1, {"kind": "BucketNotFoundError", "url": "/no/such/folder"}),
        (("stats", "/no/such/file.prom"), 1, {"kind": "LocalCacheError", "path": "/no/such/file.prom"}),
        (("ls", "--no-such-option"), 2, {"kind": "UsageError"}),
        (("pull", "--url", "/nowhere"), 2, {"kind": "UsageError"}),
    ],
)
def test_errors_are_objects_with_json(
    arguments: tuple[str, ...], code: int, expected: dict[str, str], run: Run
) -> None:
    """On stdout, with what it is about in fields of its own; stderr and the exit code are as without."""
    plain, ran = run(*arguments), run(*arguments, "--json")
    assert (plain.code, plain.out) == (code, "")
    assert (ran.code, ran.err) == (code, plain.err)
    error = ran.json["error"]
    assert set(error) == {"kind", "message", "hint", "url", "object", "path", "variable", "workload"}
    assert error.items() >= expected.items()
    assert plain.err == f"tritonsync: {error['message']}\n"


def test_an_error_of_the_bucket_names_the_object(run: Run, vit: RawBucket) -> None:
    """As a field, like the variable of a wrong setting and a workload that is not there."""
    vit.write("tritonsync.json", b"nonsense")
    assert run("ls", "--url", vit.url, "--json").json["error"]["object"] == "tritonsync.json"
    wrong = run("ls", "--url", vit.url, "--json", TRITONSYNC_MODE="?").json["error"]
    assert (wrong["kind"], wrong["variable"]) == ("SettingsError", "TRITONSYNC_MODE")


def test_a_program_that_asks_for_json_itself(run: Run, tmp_path: Path) -> None:
    """What stands after `--` is the program's own."""
    ran = run("run", "--url", tmp_path, "--", "no-such-program", "--json")
    assert (ran.code, ran.out) == (1, "")


@pytest.mark.parametrize("command", [("ls",), ("ls", "--json"), ("show", "vit"), ("--help",)])
def test_a_reader_that_has_seen_enough(command: tuple[str, ...], vit: RawBucket) -> None:
    """`tritonsync ls | head -1` ends with 0, and says nothing more."""
    program = [sys.executable, "-m", "tritonsync", *command]
    ours, theirs = os.pipe()
    os.close(ours)  # nobody reads, from the beginning
    done = subprocess.run(
        program, env={**os.environ, "TRITONSYNC_URL": vit.url}, stdout=theirs, stderr=subprocess.PIPE, check=False
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_level_of_the_log_can_be_set(run: Run, child: Run, vit: RawBucket) -> None:
    """`debug` shows each request; by default nothing is said."""
    assert child("ls", "--url", vit.url).err == ""
    shown = child("ls", "--url", vit.url, TRITONSYNC_LOG="debug").err
    assert f"read {vit.url}/tritonsync.json" in shown


@pytest.mark.parametrize(
    ("moved", "elapsed", "line"),
    [
        (None, 0.1, "2/8 bundles"),
        (Moved(81, 2_400_000), 2.0, "2/8 bundles  81 objects  2.4 MB  1.2 MB/s  6 s left"),
        (Moved(1, 500_000, expected=1_000_000), 10.0, "2/8 bundles  1 object  500.0 kB  50.0 kB/s  10 s left"),
    ],
)
def test_progress_tells_how_much_and_how_long(moved: Moved | None, elapsed: float, line: str) -> None:
    """By bytes where it is known how many there will be, else by bundles."""
    assert standing(2, 8, "bundles", moved, elapsed) == line
    assert len(standing(2, 8, "bundles", moved, elapsed, is_narrow=True)) < 40


@pytest.mark.parametrize("variables", [{"COLUMNS": "80"}, {"COLUMNS": "40", "NO_COLOR": "1"}])
def test_progress_is_shown_to_a_person(variables: dict[str, str], h200_vit: Path, tmp_path: Path) -> None:
    """While it lasts, in colours where they are wanted; the result stays alone on stdout."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tritonsync", "push", "--url", str(tmp_path / "bucket"), "--workload", "vit"]
    done = subprocess.run(
        [*command, "--inductor-dir", str(h200_vit), "--json"],
        env={**os.environ, "TERM": "xterm-256color", **variables},
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "pushing vit" in shown
    assert ("\x1b[3" in shown) is ("NO_COLOR" not in variables)
    assert json.loads(done.stdout)["kernels"] == 15
