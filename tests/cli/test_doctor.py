from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Ran, Run
from tests.raw import RawBucket
from tests.servers import Place


def lines(ran: Ran, area: str) -> list[tuple[str, str]]:
    """Return status and text of one area's findings."""
    return [(each["status"], each["what"]) for each in ran.json["findings"] if each["area"] == area]


def test_a_good_folder(run: Run, folder: RawBucket) -> None:
    """Nothing fails, and the one warning is that nothing is signed."""
    ran = run("doctor", "--url", folder.url, "--json")
    assert (ran.code, ran.json["fail"]) == (0, 0)
    assert [what for status, what in lines(ran, "bucket") if status != "ok"] == []
    assert [status for status, _ in lines(ran, "signatures")] == ["warn"]
    assert run("doctor", "--url", folder.url).out.splitlines()[-1].endswith("0 failures")


def test_a_bucket_of_the_cloud(run: Run, s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read, list, write and delete are tried, and no object is left but the one that says the format."""
    for name, value in s3_place.environment.items():
        monkeypatch.setenv(name, value)
    ran = run("doctor", "--url", s3_place.url, "--json")
    assert ran.code == 0
    assert [status for status, _ in lines(ran, "bucket")] == ["ok"] * 5
    assert lines(ran, "bucket")[0][1].startswith(("engine: s3fs (", "engine: obstore ("))
    with RawBucket(s3_place.url, s3_place.options) as raw:
        assert raw.names() == ["tritonsync.json"]


def test_a_misspelt_variable_is_named(run: Run, folder: RawBucket) -> None:
    """With the one that was meant."""
    ran = run("doctor", "--url", folder.url, "--json", TRITONSYNC_MOD="read-only")
    [finding] = [each for each in ran.json["findings"] if "TRITONSYNC_MOD " in each["what"]]
    assert finding["status"] == "warn"
    assert "TRITONSYNC_MODE" in finding["todo"]


def test_what_cannot_work_fails(run: Run, tmp_path: Path) -> None:
    """No bucket, a bucket that is none, a key that is none, a folder that cannot be written."""
    assert run("doctor", "--json").code == 1
    (tmp_path / "file").write_text("")
    ran = run("doctor", "--url", tmp_path / "file", "--json")
    assert (ran.code, [status for status, _ in lines(ran, "bucket")]) == (1, ["ok", "fail"])
    (tmp_path / "key.pem").write_text("no key")
    bucket = tmp_path / "bucket"
    ran = run("doctor", "--url", bucket, "--json", TRITONSYNC_TRUSTED_KEYS=str(tmp_path / "key.pem"))
    assert (ran.code, [status for status, _ in lines(ran, "signatures")]) == (1, ["fail"])


def test_a_reader_is_told_that_it_only_reads(run: Run, folder: RawBucket) -> None:
    """And nothing is written then."""
    ran = run("doctor", "--url", folder.url, "--json", TRITONSYNC_MODE="read-only")
    assert ran.code == 0
    assert ("ok", "write: not asked for by these settings") in lines(ran, "bucket")
    assert not list(Path(folder.url).iterdir())


def test_a_folder_that_is_not_there_is_a_warning(run: Run, tmp_path: Path) -> None:
    """It may be yet to be made, and it may be a typo."""
    ran = run("doctor", "--url", tmp_path / "none", "--json", TRITONSYNC_MODE="read-only")
    assert ("warn", f"the folder {tmp_path / 'none'} is not there yet") in lines(ran, "bucket")
