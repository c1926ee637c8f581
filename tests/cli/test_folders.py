"""`push --bundle` and `pull --bundle`: what they say, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.folders import LAYOUTS, contents, install, make_folder, write
from tests.raw import RawBucket


@pytest.fixture
def deepgemm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the variables of a host that has DeepGEMM and a folder of it."""
    install("deep-gemm", tmp_path / "site", monkeypatch)
    return {"DG_JIT_CACHE_DIR": str(make_folder("deepgemm", tmp_path / "here"))}


def test_folders_by_name(run: Run, folder: RawBucket, deepgemm: dict[str, str], tmp_path: Path) -> None:
    """Several in one command; each is a line, and an entry of the JSON document."""
    (tmp_path / "timings" / ("A" * 52)).mkdir(parents=True)
    write(tmp_path / "timings", LAYOUTS["triton-autotune"])
    here = {**deepgemm, "TRITON_CACHE_DIR": str(tmp_path / "timings")}
    pushed = run("push", "--url", folder.url, "--bundle", "deepgemm,triton-autotune", **here)
    assert (pushed.code, pushed.err) == (0, "")
    assert f"pushed deepgemm to {folder.url}: 6 files (6 new) from {tmp_path / 'here'}" in pushed.out
    assert "pushed triton-autotune" in pushed.out
    again = run("push", "--url", folder.url, "--bundle", "deepgemm", "--json", **here).json
    assert [each["created"] for each in again["bundles"]] == [False]
    there = {"DG_JIT_CACHE_DIR": str(tmp_path / "a"), "TRITON_CACHE_DIR": str(tmp_path / "b")}
    pulled = run(
        "pull", "--url", folder.url, "--bundle", "deepgemm", "--bundle", "triton-autotune", "--json", **there
    ).json
    assert [(each["name"], each["files"], each["written"]) for each in pulled["bundles"]] == [
        ("deepgemm", 6, 6),
        ("triton-autotune", 1, 1),
    ]
    assert contents(tmp_path / "a") == LAYOUTS["deepgemm"]
    assert contents(tmp_path / "b") == LAYOUTS["triton-autotune"]
    shown = run("pull", "--url", folder.url, "--bundle", "deepgemm", **there)
    assert "6 files (0 written, 6 present)" in shown.out


def test_what_a_bucket_shows_of_them(run: Run, folder: RawBucket, deepgemm: dict[str, str]) -> None:
    """`ls` has a row, `show` where they fit and every file, `du` a sum, and `verify` nothing to say."""
    run("push", "--url", folder.url, "--bundle", "deepgemm", **deepgemm)
    assert [each["kind"] for each in run("ls", "--kind", "folder", "--url", folder.url, "--json").json["bundles"]] == [
        "folder"
    ]
    shown = run("show", "deepgemm", "--url", folder.url).out
    assert "fits where these are the same: deep-gemm 2.1 (wheel" in shown
    assert all(path in shown for path in LAYOUTS["deepgemm"])
    assert "payload" not in shown
    assert "folder" in run("du", "--by", "kind", "--url", folder.url).out
    verified = run("verify", "--url", folder.url)
    assert (verified.code, "0 bad, 0 incomplete" in verified.out) == (0, True)
    assert run("gc", "--older-than", "1d", "--url", folder.url, "--json").json["kept"]["bundles"] == 1


def test_a_miss_says_what_differs(
    run: Run, folder: RawBucket, deepgemm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And fails, where there is nothing at all for this host."""
    run("push", "--url", folder.url, "--bundle", "deepgemm", **deepgemm)
    install("deep-gemm", tmp_path / "site2", monkeypatch, version="2.2")
    missed = run("pull", "--url", folder.url, "--bundle", "deepgemm", DG_JIT_CACHE_DIR=str(tmp_path / "there"))
    assert missed.code == 1
    assert "the bucket holds nothing of deepgemm that fits this host; nearest: deep-gemm 2.1 (wheel" in missed.err
    assert "-> 2.2 (wheel" in missed.err


def test_a_folder_of_ones_own(run: Run, folder: RawBucket, tmp_path: Path) -> None:
    """Only with a key."""
    here = write(tmp_path / "here", {"a/b": b"1"})
    own = ("--url", folder.url, "--bundle-dir", f"mine={here}")
    assert run("push", *own, "--bundle-key", "H200, cuda 13").code == 0
    there = ("--url", folder.url, "--bundle-dir", f"mine={tmp_path / 'there'}")
    assert run("pull", *there, "--bundle-key", "H200, cuda 12").code == 1
    assert run("pull", *there, "--bundle-key", "H200, cuda 13").code == 0
    assert contents(tmp_path / "there") == {"a/b": b"1"}


def test_a_dry_run_writes_nothing(run: Run, folder: RawBucket, deepgemm: dict[str, str], tmp_path: Path) -> None:
    """Neither into the bucket nor into the folder; it counts what would be written."""
    arguments = ("--url", folder.url, "--bundle", "deepgemm")
    told = run("push", *arguments, "--dry-run", **deepgemm)
    assert (told.code, folder.names()) == (0, [])
    assert f"would push deepgemm to {folder.url}: 6 files (6 new)" in told.out
    run("push", *arguments, **deepgemm)
    there = tmp_path / "there"
    told = run("pull", *arguments, "--dry-run", DG_JIT_CACHE_DIR=str(there))
    assert (told.code, there.exists()) == (0, False)
    assert f"would pull deepgemm from {folder.url}: 6 files (6 to write, 0 present)" in told.out
    document = run("pull", *arguments, "--dry-run", "--json", **deepgemm).json
    assert (document["dry_run"], [each["written"] for each in document["bundles"]]) == (True, [0])


def test_strict_wants_every_folder(run: Run, folder: RawBucket, tmp_path: Path) -> None:
    """Without it, one that the bucket has is enough."""
    key = ("--url", folder.url, "--bundle-key", "k")
    run("push", *key, "--bundle-dir", f"mine={write(tmp_path / 'here', {'a': b'1'})}")
    both = ("--bundle-dir", f"mine={tmp_path / 'there'}", "--bundle-dir", f"other={tmp_path / 'other'}")
    assert run("pull", *key, *both).code == 0
    assert run("pull", *key, *both, "--strict").code == 1
    assert run("pull", *key, *both[:2], "--strict").code == 0
    assert run("pull", *key, *both, "--files", "launch").code == 2


def test_what_of_ones_own_folder_cannot_travel_is_said(run: Run, folder: RawBucket, tmp_path: Path) -> None:
    """Files whose names no bundle holds, and links; locks are no loss. Nothing but such files is an error."""
    here = write(tmp_path / "here", {"ok.bin": b"1", "kern@v2.bin": b"2", "deep/x=1.bin": b"3", "a.lock": b""})
    (here / "link").symlink_to(here / "ok.bin")
    arguments = ("push", "--url", folder.url, "--bundle-key", "k", "--bundle-dir")
    pushed = run(*arguments, f"mine={here}")
    assert pushed.code == 0
    assert "pushed dir-mine" in pushed.out
    assert f"warning: 3 files of {here} left out, such as deep/x=1.bin" in pushed.err
    damaged = run(*arguments, f"bad={write(tmp_path / 'bad', {'k.json': b'{'})}")
    assert damaged.code == 1
    assert "nothing was pushed" in damaged.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--bundle", "deepgem"), 1, "these are: cuda-driver, deepgemm"),
        (("--bundle", "deepgemm"), 1, "none of deep-gemm, sgl-deep-gemm is installed here"),
        (("--bundle", "deepgemm", "--workload", "w"), 2, "two different things"),
        (("--bundle", "deepgemm", "--bundle-key", "k"), 2, "--bundle-dir NAME=DIR needs"),
        (("--bundle-dir", "mine=/a"), 2, "--bundle-dir NAME=DIR needs"),
        (("--bundle-dir", "/a", "--bundle-key", "k"), 2, "is not NAME=DIR"),
        (("--bundle-dir", "a/b=/a", "--bundle-key", "k"), 1, "needs a name"),
        (("--bundle-key", "k"), 2, "--bundle-key is for"),
        (("--bundle", ""), 2, "--bundle names nothing"),
        (("--bundle", ","), 2, "--bundle names nothing"),
    ],
)
@pytest.mark.parametrize("command", ["push", "pull"])
def test_wrong_options_are_named(
    command: str, arguments: tuple[str, ...], code: int, said: str, run: Run, folder: RawBucket
) -> None:
    """Before the bucket is asked."""
    ran = run(command, "--url", folder.url, *arguments)
    assert (ran.code, folder.names()) == (code, [])
    assert said in " ".join(ran.err.replace("│", " ").split())


def test_an_empty_folder_cannot_be_pushed(
    run: Run, folder: RawBucket, deepgemm: dict[str, str], tmp_path: Path
) -> None:
    """The variable that names it is said."""
    ran = run("push", "--url", folder.url, "--bundle", "deepgemm", DG_JIT_CACHE_DIR=str(tmp_path / "none"))
    assert (ran.code, folder.names()) == (1, [])
    assert "nothing to push" in ran.err
    assert "DG_JIT_CACHE_DIR" in ran.err
