from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run
from tests.keys import make_key
from tests.raw import RawBucket


def test_a_good_bucket(run: Run, vit: RawBucket) -> None:
    """Everything but the format object is read."""
    ran = run("verify", "--url", vit.url, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert (ran.json["bad"], ran.json["incomplete"], ran.json["leftovers"]) == ([], [], [])
    assert (ran.json["bundles"], ran.json["objects"]) == (4, len(vit.names()) - 1)


def test_a_damaged_object_is_named(run: Run, vit: RawBucket) -> None:
    """The exit code is 1, and the object stands on stderr and in the JSON."""
    name = next(name for name in vit.names("^kernels/") if name.endswith(".cubin"))
    vit.damage(name, "flip")
    assert [problem["name"] for problem in run("verify", "--url", vit.url, "--json").json["bad"]] == [name]
    ran = run("verify", "--url", vit.url)
    assert ran.code == 1
    assert name in ran.err
    assert "1 bad" in ran.out


def test_only_what_is_asked_for_is_read(run: Run, vit: RawBucket) -> None:
    """Damage elsewhere does not count for a key; for a workload, all that it lists counts."""
    vit.damage(vit.only("bundles/fx_graph/.*/default/.*pack"), "flip")
    assert run("verify", "aot_autograd/" + vit.names("aot_autograd")[0].split("/")[2], "--url", vit.url).code == 0
    assert run("verify", "vit", "--url", vit.url).code == 1


def test_what_is_missing_is_a_warning(run: Run, vit: RawBucket) -> None:
    """A bundle without its pack loads from single objects."""
    name = vit.only("bundles/fx_graph/.*/default/.*pack")
    vit.damage(name, "delete")
    ran = run("verify", "--url", vit.url)
    assert ran.code == 0
    assert f"incomplete: {name}" in ran.err


def test_what_is_bad_can_be_removed(run: Run, vit: RawBucket, h200_vit: object) -> None:
    """After `--delete-bad` a push makes the bucket whole again."""
    before = vit.names()
    vit.damage(vit.only("bundles/aot_autograd/.*manifest"), "flip")
    vit.damage(vit.only("bundles/fx_graph/.*/default/.*pack"), "flip")
    assert run("verify", "--url", vit.url, "--delete-bad").code == 1
    assert run("verify", "--url", vit.url).code == 0
    assert run("push", "--url", vit.url, "--workload", "vit", "--inductor-dir", h200_vit).code == 0
    assert vit.names() == before


def test_what_nobody_trusted_has_signed_is_a_warning(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """It is named apart, in text and JSON, is no failure, and is not removed."""
    (tmp_path / "trusted.pem").write_bytes(make_key().public)
    before, key = vit.names(), str(tmp_path / "trusted.pem")
    ran = run("verify", "--url", vit.url, "--delete-bad", TRITONSYNC_TRUSTED_KEYS=key)
    assert ran.code == 0
    assert ran.err.count("untrusted: bundles/") == 4
    assert "0 bad, 0 incomplete, 4 signed by nobody who is trusted" in ran.out
    found = run("verify", "--url", vit.url, "--json", TRITONSYNC_TRUSTED_KEYS=key).json
    assert (len(found["untrusted"]), found["bad"], found["leftovers"], found["removed"]) == (4, [], [], [])
    assert vit.names() == before


def test_a_wrong_url_is_not_a_good_bucket(run: Run, folder: RawBucket) -> None:
    """Where nothing is, nothing was verified."""
    ran = run("verify", "--url", folder.url)
    assert (ran.code, ran.out) == (1, "")
