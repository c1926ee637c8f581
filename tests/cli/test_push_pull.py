from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.kernels import CompiledKernels, contents, not_writable
from tests.keys import make_key
from tests.raw import RawBucket
from tests.servers import Place
from tritonsync.local.inductor_cache import public_path

PUSHED = {"kernels", "kernels_new", "bundles", "bundles_new", "objects_created", "bytes_uploaded", "requests"}
PULLED = {"kernels", "kernels_emitted", "kernels_present", "conflicts", "bundles", "bytes_downloaded", "requests"}


def relocated(root: Path) -> dict[str, bytes]:
    """Read the kernel folders of a cache, with every path in them cut off before the kernel hash."""
    found = {}
    for path in root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".json":
                data = re.sub(rb'"[^"]*/([A-Z2-7]{52})/', rb'"\1/', data)
            found[str(path.relative_to(root))] = data
    return found


def values(cache: Path) -> dict[str, bytes]:
    """Read graphs and autotune results of a cache."""
    patterns = ("fxgraph/*/*/*", "aotautograd/*/*", "??/*.best_config")
    return {str(path.relative_to(cache)): path.read_bytes() for pattern in patterns for path in cache.glob(pattern)}


def storage(place: Place) -> tuple[str, ...]:
    return ("--url", place.url, "--storage-options", json.dumps(dict(place.options)))


@pytest.mark.parametrize("kind", ["s3_place", "gcs_place"])
def test_a_cache_goes_through_a_bucket_and_back(
    kind: str, request: pytest.FixtureRequest, run: Run, h200_vit: Path, tmp_path: Path
) -> None:
    """What is pulled equals what was pushed, but for the paths inside; a second push and a second pull move nothing."""
    target = (*storage(request.getfixturevalue(kind)), "--workload", "ViT", "--json")
    pushed = run("push", *target, "--inductor-dir", h200_vit)
    assert (pushed.code, pushed.err) == (0, "")
    assert pushed.json.keys() >= PUSHED
    assert pushed.json["kernels"] == pushed.json["kernels_new"] == 15
    again = run("push", *target, "--inductor-dir", h200_vit).json
    assert (again["objects_created"], again["bundles_new"], again["kernels_new"], again["bytes_uploaded"]) == (0,) * 4

    here = tmp_path / "other"
    pulled = run("pull", *target, "--inductor-dir", here)
    assert pulled.code == 0
    assert pulled.json.keys() >= PULLED
    assert pulled.json["kernels"] == pulled.json["kernels_emitted"] == 15
    assert pulled.json["requests"] < 40
    assert relocated(here / "triton" / "0") == relocated(h200_vit / "triton" / "0")
    assert values(here) == values(h200_vit)
    second = run("pull", *target, "--inductor-dir", here).json
    assert (second["kernels_emitted"], second["kernels_present"], second["conflicts"]) == (0, 15, 0)


def test_pull_says_that_the_path_is_another_one(run: Run, vit: RawBucket, h200_vit: Path, tmp_path: Path) -> None:
    """Autotune results are looked up under the path of whoever compiled, so a pull to another path says so."""
    target = ("--url", vit.url, "--workload", "vit")
    other = run("pull", *target, "--inductor-dir", tmp_path / "other")
    assert public_path(str(h200_vit)) in other.err
    assert len(other.err.splitlines()) == 1
    same = run("pull", *target, "--inductor-dir", h200_vit, "--json")
    assert (same.err, same.json["same_path"]) == ("", True)


def test_pull_of_launch_files_leaves_out_the_rest(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """`--files launch`, or the variable, writes binaries and their facts only."""
    target = ("pull", "--url", vit.url, "--workload", "vit", "--inductor-dir")
    assert run(*target, tmp_path / "a", "--files", "launch").code == 0
    assert run(*target, tmp_path / "b", TRITONSYNC_FILES="launch").code == 0
    for cache in (tmp_path / "a", tmp_path / "b"):
        suffixes = {path.suffix for path in cache.glob("triton/0/*/*") if path.suffix != ".so"}
        assert suffixes == {".cubin", ".json"}


def test_a_cache_of_plain_triton(
    run: Run, folder: RawBucket, compiled_kernels: CompiledKernels, tmp_path: Path
) -> None:
    """Kernels without a device folder come back without one, into the folder that is named."""
    target = ("--url", folder.url, "--workload", "plain", "--json", "--triton-dir")
    assert run("push", *target, compiled_kernels.directory).json["kernels"] == 4
    [manifest] = folder.contents("bundles/workload/plain/.*manifest.json").values()
    environment = json.loads(manifest)["environment"]
    assert environment["triton"]
    assert environment["target"] in ("cuda:80", "cuda:90")
    pulled = run("pull", *target, tmp_path / "here")
    assert pulled.err == ""
    assert {path.name for path in (tmp_path / "here").iterdir()} == set(compiled_kernels.hashes)
    for name in compiled_kernels.hashes:
        assert contents(tmp_path / "here" / name).keys() == contents(compiled_kernels.directory / name).keys()


def test_a_cache_folder_of_triton_in_the_environment(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """Where TRITON_CACHE_DIR is set, torch keeps no folder for each device, so neither does a pull."""
    environ = {"TRITON_CACHE_DIR": str(tmp_path / "t"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "i")}
    pulled = run("pull", "--url", vit.url, "--workload", "vit", "--json", **environ)
    assert pulled.json["kernels_emitted"] == 15
    assert len([path for path in (tmp_path / "t").iterdir() if len(path.name) == 52]) == 15
    assert not (tmp_path / "i" / "triton").exists()


def test_pushing_nothing_is_an_error(run: Run, folder: RawBucket, tmp_path: Path) -> None:
    """A folder that holds nothing is named, and nothing is written."""
    (tmp_path / "empty").mkdir()
    ran = run("push", "--url", folder.url, "--workload", "x", "--inductor-dir", tmp_path / "empty")
    assert (ran.code, ran.out) == (1, "")
    assert str(tmp_path / "empty") in ran.err
    assert not folder.names()


@pytest.mark.parametrize("option", ["--inductor-dir", "--triton-dir"])
def test_pushing_from_a_folder_that_is_not_there(
    option: str, run: Run, folder: RawBucket, h200_vit: Path, tmp_path: Path
) -> None:
    """A typo is an error that names the option, also where there is something else to push."""
    ran = run("push", "--url", folder.url, "--workload", "x", option, tmp_path / "none", TRITON_CACHE_DIR=str(h200_vit))
    assert (ran.code, ran.out) == (1, "")
    assert f"{option} {tmp_path / 'none'} is not a folder" in ran.err
    assert not folder.names()


def test_a_workload_that_nobody_pushed(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """An unknown workload is an error that names it."""
    ran = run("pull", "--url", vit.url, "--workload", "resnet", "--inductor-dir", tmp_path / "here")
    assert (ran.code, ran.out) == (1, "")
    assert "'resnet'" in ran.err


def test_pull_names_bundles_that_could_not_be_had(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """The rest is pulled all the same."""
    for name in vit.names("bundles/aot_autograd/.*|start.tar$"):
        vit.delete(name)
    ran = run("pull", "--url", vit.url, "--workload", "vit", "--inductor-dir", tmp_path / "here", "--json")
    assert (ran.code, ran.json["kernels_emitted"], ran.json["bundles"]) == (0, 15, 2)
    [missing] = ran.json["missing"]
    assert missing.startswith("aot_autograd/")
    assert missing in ran.err
    strict = run("pull", "--url", vit.url, "--workload", "vit", "--inductor-dir", tmp_path / "b", "--strict", "--json")
    assert (strict.code, strict.json["missing"]) == (1, [missing])


def test_a_dry_run_moves_nothing(run: Run, folder: RawBucket, h200_vit: Path, tmp_path: Path) -> None:
    """Neither way; it says what would be moved, and after the real thing that nothing would."""
    push = ("push", "--url", folder.url, "--workload", "vit", "--inductor-dir", h200_vit, "--json")
    would = run(*push, "--dry-run").json
    assert (would["kernels_new"], would["bundles_new"], would["objects_created"]) == (15, 4, 0)
    assert folder.names() == []
    pushed = run(*push).json
    assert [pushed[name] for name in ("kernels_new", "bundles_new", "bytes_new")] == [
        would[name] for name in ("kernels_new", "bundles_new", "bytes_new")
    ]
    again = run(*push, "--dry-run").json
    assert (again["kernels_new"], again["bundles_new"], again["bytes_new"]) == (0, 0, 0)

    pull = ("pull", "--url", folder.url, "--workload", "vit", "--inductor-dir", tmp_path / "here", "--json")
    would = run(*pull, "--dry-run").json
    assert (would["kernels_emitted"], would["kernels_present"], would["bundles"]) == (15, 0, 3)
    assert not (tmp_path / "here").exists()
    pulled = run(*pull).json
    assert (pulled["kernels_emitted"], pulled["bytes_wanted"]) == (15, would["bytes_wanted"])
    again = run(*pull, "--dry-run").json
    assert (again["kernels_emitted"], again["kernels_present"], again["bytes_wanted"]) == (0, 15, 0)


def test_the_totals_of_commands_agree(run: Run, folder: RawBucket, h200_vit: Path) -> None:
    """What was pushed is what lies there: as many bundles, objects and bytes."""
    push = run("push", "--url", folder.url, "--workload", "vit", "--inductor-dir", h200_vit, "--json").json
    verify, du, ls = (run(command, "--url", folder.url, "--json").json for command in ("verify", "du", "ls"))
    assert push["bundles"] == verify["bundles"] == du["bundles"] == ls["bundles_total"]
    assert push["objects_created"] == verify["objects"]
    assert push["bytes_uploaded"] == verify["bytes"] == du["bytes"]
    folders = next(row["bytes"] for row in du["rows"] if row["name"] == "kernel folders")
    assert ls["bytes_total"] + folders == du["bytes"]


def test_a_bucket_that_may_only_be_read(run: Run, shared_folder: Path, h200_vit: Path) -> None:
    """A reader's push ends before anything is sent, and says what is missing."""
    bucket = shared_folder / "bucket"
    arguments = ("push", "--url", bucket, "--workload", "x", "--inductor-dir")
    cache = shared_folder / "cache"
    (cache / "fxgraph" / "ab" / "fabc").mkdir(parents=True)
    (cache / "fxgraph" / "ab" / "fabc" / "value").write_bytes(b"value")
    bucket.mkdir()
    run("push", "--url", shared_folder / "other", "--workload", "x", "--inductor-dir", cache)  # imports what it needs
    with not_writable(bucket):
        ran = run(*arguments, cache)
    assert (ran.code, ran.out) == (1, "")
    assert "not written" in ran.err
    forbidden = run(*arguments, cache, TRITONSYNC_MODE="read-only")
    assert forbidden.code == 1
    assert "TRITONSYNC_MODE" in forbidden.err


def test_a_bucket_of_a_newer_format(run: Run, vit: RawBucket, h200_vit: Path, tmp_path: Path) -> None:
    """Neither push nor pull touches a bucket that a newer version owns."""
    vit.write("tritonsync.json", b'{"format": 2}')
    for command, cache in (("push", h200_vit), ("pull", tmp_path / "here")):
        ran = run(command, "--url", vit.url, "--workload", "vit", "--inductor-dir", cache)
        assert (ran.code, ran.out) == (1, "")
        assert "upgrade" in ran.err


def test_signed_bundles(run: Run, folder: RawBucket, h200_vit: Path, tmp_path: Path) -> None:
    """What one key signed is pulled where that key is trusted, and is a missing workload where another one is."""
    ours, other = make_key(), make_key()
    for name, data in (("ours.pem", ours.private), ("ours.pub", ours.public), ("other.pub", other.public)):
        (tmp_path / name).write_bytes(data)
    target = ("--url", folder.url, "--workload", "vit", "--json", "--inductor-dir")
    assert run("push", *target, h200_vit, TRITONSYNC_SIGNING_KEY=str(tmp_path / "ours.pem")).code == 0
    good = run("pull", *target, tmp_path / "a", TRITONSYNC_TRUSTED_KEYS=str(tmp_path / "ours.pub"))
    assert (good.code, good.json["kernels_emitted"]) == (0, 15)
    unsigned = run("push", *target, h200_vit, TRITONSYNC_TRUSTED_KEYS=str(tmp_path / "ours.pub"))
    assert unsigned.code == 1
    assert unsigned.json["error"]["variable"] == "TRITONSYNC_TRUSTED_KEYS"
    assert "TRITONSYNC_SIGNING_KEY" in unsigned.err
    bad = run("pull", *target, tmp_path / "b", TRITONSYNC_TRUSTED_KEYS=str(tmp_path / "other.pub"))
    assert bad.code == 1
    assert (bad.json["error"]["kind"], bad.json["error"]["workload"]) == ("UnknownWorkloadError", "vit")
    assert "not trusted" in bad.err


@pytest.mark.parametrize("variable", ["TRITONSYNC_SIGNING_KEY", "TRITONSYNC_TRUSTED_KEYS"])
def test_a_key_that_is_none(variable: str, run: Run, folder: RawBucket, h200_vit: Path, tmp_path: Path) -> None:
    """A key file that is missing, and one that holds something else, are errors that name variable and file."""
    (tmp_path / "text.pem").write_text("no key")
    for name in ("missing.pem", "text.pem"):
        arguments = ("push", "--url", folder.url, "--workload", "vit", "--inductor-dir", h200_vit)
        ran = run(*arguments, **{variable: str(tmp_path / name)})
        assert (ran.code, ran.out) == (1, "")
        assert variable in ran.err
        assert name in ran.err
