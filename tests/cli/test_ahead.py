"""What happens before the arguments are parsed: a request is on its way, and nothing heavy is imported in vain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.faultproxy import FaultProxy, answer
from tests.raw import RawBucket
from tests.servers import Place
from tritonsync import times
from tritonsync.cli import ahead
from tritonsync.format.layout import FORMAT_OBJECT, key_prefix
from tritonsync.settings import Settings

#: Shows which of these a program has imported when it ends.
HEAVY = "import atexit, sys; atexit.register(lambda: print([n for n in ('typer', 'fsspec') if n in sys.modules]))"


@pytest.mark.parametrize("spelled", [["--url", "{}"], ["--url={}"], ["--url", "s3://other", "--url", "{}"]])
def test_the_answer_waits_for_the_command(spelled: list[str], place: Place, s3_proxy: FaultProxy) -> None:
    """The command takes the bucket that was opened, its connection, and the listing that a pull needs first."""
    ahead.send(["pull", *(word.format(place.url) for word in spelled), "--workload", "w"])
    taken = ahead.take(Settings(url=place.url + "/"), times.COMMAND_S)
    assert taken is not None
    assert taken[1].result() == "read-only"
    assert taken[0].list(key_prefix("workload", "w")) == {}
    assert s3_proxy.count("GET", path=FORMAT_OBJECT) == 2
    assert s3_proxy.count() == 3, s3_proxy.seen()
    assert ahead.take(Settings(url=place.url), times.COMMAND_S) is None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["push", "--url", "{}"],
        ["pull"],
        ["pull", "--url", "{}", "--help"],
        ["pull", "--url", "{}", "--timeout", "5"],
        ["pull", "--url", "{}", "--storage-options={{}}"],
        ["pull", "--url", "s4://bucket"],
    ],
)
def test_nothing_is_sent_where_more_than_a_url_decides(
    arguments: list[str], place: Place, s3_proxy: FaultProxy
) -> None:
    """What is not understood is left to whoever parses the arguments."""
    ahead.send([word.format(place.url) for word in arguments])
    assert ahead.take(Settings(url=place.url), times.COMMAND_S) is None
    assert s3_proxy.count() == 0


def test_another_bucket_is_opened_anew(place: Place) -> None:
    """What was opened for one URL never serves another."""
    ahead.send(["pull", "--url", place.url])
    assert ahead.take(Settings(url=place.url + "/other"), times.COMMAND_S) is None


def test_no_request_is_made_twice(
    child: Run, run: Run, place: Place, s3_proxy: FaultProxy, h200_vit: Path, tmp_path: Path
) -> None:
    """A command in a process of its own asks what it asks in this one."""
    assert run("push", "--url", place.url, "--workload", "vit", "--inductor-dir", h200_vit).code == 0
    seen = []
    for number, command in enumerate((run, child)):
        s3_proxy.clear()
        target = tmp_path / str(number)
        pulled = command("pull", "--url", place.url, "--workload", "vit", "--inductor-dir", target, "--json")
        assert pulled.code == 0, pulled.err
        assert json.loads(pulled.out)["requests"] == s3_proxy.count()
        seen.append(sorted(s3_proxy.seen()))
    assert seen[0] == seen[1]


def test_a_refusal_is_said_by_the_command(child: Run, place: Place, s3_proxy: FaultProxy) -> None:
    """In one line, with the exit code of an error."""
    s3_proxy.fail(answer(403), times=9)
    failed = child("verify", "--url", place.url)
    assert failed.code == 1
    assert failed.err.count("\n") == 1
    assert "access denied" in failed.err


def test_the_version_is_told_without_importing_a_parser(child: Run, run: Run) -> None:
    """It says what the command says."""
    told = child("version", before=HEAVY)
    assert told.out == run("version").out + "[]\n"


def test_help_is_told_without_importing_a_filesystem(child: Run) -> None:
    """Only what parses arguments is loaded."""
    assert child("--help", before=HEAVY).out.endswith("['typer']\n")


def test_a_folder_is_asked_ahead_too(folder: RawBucket) -> None:
    """Whatever the bucket is."""
    ahead.send(["ls", "--url", folder.url])
    taken = ahead.take(Settings(url=folder.url), times.COMMAND_S)
    assert taken is not None
    assert taken[1].result() == "read-only"
