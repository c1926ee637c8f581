from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.raw import RawBucket


def test_nothing_goes_in_a_dry_run(run: Run, vit: RawBucket) -> None:
    """It names what would."""
    before = vit.names()
    ran = run("gc", "--url", vit.url, "--older-than", "0s", "--grace", "0s", "--dry-run", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert len(ran.json["bundles"]) == 4
    assert vit.names() == before


def test_a_young_bucket_stays(run: Run, vit: RawBucket) -> None:
    """The grace period holds whatever else was asked for."""
    before = vit.names()
    ran = run("gc", "--url", vit.url, "--older-than", "1d", "--max-size", "1kB", "--json")
    assert (ran.code, ran.json["removed"]["bundles"]) == (0, 0)
    assert vit.names() == before


def test_a_workload_is_removed(run: Run, vit: RawBucket) -> None:
    """With all that belongs to it; the bucket itself stays usable."""
    ran = run("rm", "VIT", "--url", vit.url)
    assert ran.code == 0
    assert ran.out.startswith("removed 4 bundles")
    assert vit.names() == ["tritonsync.json"]
    ran = run("rm", "vit", "--url", vit.url)
    assert ran.code == 1
    assert "no workload named 'vit'" in ran.err


def test_sizes_by_workload(run: Run, vit: RawBucket) -> None:
    """The total is that of `ls` and the kernel folders."""
    ran = run("du", "--url", vit.url, "--json")
    assert (ran.code, ran.json["bundles"]) == (0, 4)
    total = run("ls", "--url", vit.url, "--json").json["bytes_total"]
    folders = next(row["bytes"] for row in ran.json["rows"] if row["name"] == "kernel folders")
    assert ran.json["bytes"] == total + folders
    assert "vit" in run("du", "--url", vit.url).out


def test_lists_that_cannot_be_read_are_said(run: Run, vit: RawBucket) -> None:
    """As all that no list names stays for them."""
    vit.damage(vit.only("^bundles/workload/.*manifest"), "truncate")
    ran = run("gc", "--url", vit.url, "--older-than", "0s", "--dry-run")
    assert (ran.code, ran.out[:22]) == (0, "would remove 0 bundles")
    assert "1 list cannot be read, so all that no list names stays" in ran.err
    ran = run("gc", "--url", vit.url, "--json")
    assert [prefix.split("/")[1] for prefix in ran.json["unread"]] == ["workload"]


def test_wrong_ages_and_sizes_are_usage_errors(run: Run, vit: RawBucket) -> None:
    """Nothing is removed over a typo."""
    assert run("gc", "--url", vit.url, "--older-than", "soon").code == 2
    assert run("gc", "--url", vit.url, "--max-size", "big").code == 2


@pytest.mark.parametrize("mode", ["read-only", "off"])
@pytest.mark.parametrize(
    "command", [["gc", "--older-than", "0s", "--grace", "0s"], ["rm", "vit"], ["verify", "--delete-bad"]], ids=" ".join
)
def test_the_mode_forbids_to_remove(run: Run, vit: RawBucket, command: list[str], mode: str) -> None:
    """As it forbids to push; what removes nothing goes on."""
    vit.damage(vit.names("^bundles/.*pack")[0], "flip")
    before = vit.contents()
    ran = run(*command, "--url", vit.url, TRITONSYNC_MODE=mode)
    assert (ran.code, ran.out) == (1, "")
    assert f"TRITONSYNC_MODE={mode} does not allow to remove anything" in ran.err
    ran = run(*command, "--url", vit.url, "--json", TRITONSYNC_MODE=mode)
    assert ran.json["error"]["variable"] == "TRITONSYNC_MODE"
    harmless = ["verify"] if command[0] == "verify" else [*command, "--dry-run"]
    ran = run(*harmless, "--url", vit.url, "--json", TRITONSYNC_MODE=mode)
    assert ran.json.get("error") is None
    assert vit.contents() == before


def test_nothing_is_removed_where_tritonsync_never_wrote(run: Run, tmp_path: Path) -> None:
    """A URL without its prefix, say: that is an error, even in a dry run."""
    raw = RawBucket(str(tmp_path / "bucket"))
    theirs = f"kernels/flash_attn/{'0' * 32}/fa3.so"
    raw.write(theirs, b"precious")
    for command in (["gc", "--grace", "0s"], ["gc", "--dry-run"], ["rm", "vit"]):
        ran = run(*command, "--url", raw.url)
        assert (ran.code, ran.out) == (1, "")
        assert f"{raw.url} holds neither a bundle nor tritonsync.json" in ran.err
        assert "its prefix" in ran.err
    assert raw.names() == [theirs]
