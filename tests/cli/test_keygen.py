"""`tritonsync keygen`: a key pair, and the two variables that name it."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.raw import RawBucket


def test_the_variables_that_it_prints_sign_and_verify(
    run: Run, folder: RawBucket, h200_vit: Path, tmp_path: Path
) -> None:
    """What one host publishes with the first, another takes with the second, and nothing else."""
    made = run("keygen", "--out", tmp_path / "my keys")
    assert made.code == 0
    lines = [shlex.split(line) for line in made.out.splitlines()]
    assert [line[0] for line in lines] == ["export", "export"]
    signing, trusted = (dict([line[1].split("=", 1)]) for line in lines)
    assert (list(signing), list(trusted)) == (["TRITONSYNC_SIGNING_KEY"], ["TRITONSYNC_TRUSTED_KEYS"])
    target = ("--url", folder.url, "--workload", "vit", "--inductor-dir")
    assert run("push", *target, h200_vit, **signing).code == 0
    assert run("pull", *target, tmp_path / "a", **trusted).code == 0
    other = run("keygen", "--out", tmp_path / "others", "--json").json
    assert run("pull", *target, tmp_path / "b", TRITONSYNC_TRUSTED_KEYS=other["trusted_key"]).code == 1


def test_a_namespace_is_part_of_what_is_signed(run: Run, folder: RawBucket, h200_vit: Path, tmp_path: Path) -> None:
    """A bucket that was copied is refused where another namespace is set, and taken where the same is."""
    variables = run("keygen", "--out", tmp_path, "--json").json["variables"]
    target = ("--url", folder.url, "--workload", "vit", "--inductor-dir")
    assert run("push", *target, h200_vit, **variables, TRITONSYNC_NAMESPACE="prod").code == 0
    for namespace, code in (("prod", 0), ("test", 1), (None, 1)):
        added = {} if namespace is None else {"TRITONSYNC_NAMESPACE": namespace}
        ran = run("pull", *target, tmp_path / f"cache-{namespace}", **variables, **added)
        assert ran.code == code, ran
        assert ("not trusted here" in ran.err) == (code == 1)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_the_private_key_is_private(run: Run, tmp_path: Path) -> None:
    """Whatever the umask; so is the folder, where it is new."""
    before = os.umask(0)
    try:
        files = run("keygen", "--out", tmp_path / "new" / "keys", "--json").json
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(files["signing_key"]).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(files["trusted_key"]).stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "new" / "keys").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["signing-key.pem", "trusted-key.pem"])
def test_no_key_is_overwritten(name: str, run: Run, tmp_path: Path) -> None:
    """Nor is what a link leads to; and no half of a pair is left behind."""
    (tmp_path / "victim").write_text("precious")
    for make in ((tmp_path / name).write_text, lambda _: (tmp_path / name).symlink_to("victim")):
        make("there before")
        ran = run("keygen", "--out", tmp_path)
        assert (ran.code, ran.out) == (1, "")
        assert f"{tmp_path / name} is there already" in ran.err
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "victim"])
        assert (tmp_path / "victim").read_text() == "precious"
        (tmp_path / name).unlink()


def test_a_folder_that_cannot_be_used_is_named(run: Run, tmp_path: Path) -> None:
    """One that cannot be made, and one that the variable could not name."""
    (tmp_path / "file").write_text("")
    for out, part in ((tmp_path / "file" / "keys", "file"), (tmp_path / "a:b", "TRITONSYNC_TRUSTED_KEYS")):
        ran = run("keygen", "--out", out)
        assert (ran.code, ran.out) == (1, "")
        assert part in ran.err


@pytest.mark.parametrize("variable", ["TRITONSYNC_TRUSTED_KEYS", "TRITONSYNC_SIGNING_KEY"])
@pytest.mark.parametrize("value", ["", " ", ":"])
def test_commands_fail_on_keys_that_are_set_and_empty(
    variable: str, value: str, run: Run, folder: RawBucket, h200_vit: Path, tmp_path: Path
) -> None:
    """Nothing is trusted or published in their place."""
    target = ("--url", folder.url, "--workload", "vit", "--inductor-dir")
    for command, cache in (("pull", tmp_path), ("push", h200_vit)):
        ran = run(command, *target, cache, **{variable: value})
        assert (ran.code, ran.out) == (1, "")
        assert variable in ran.err
    assert not Path(folder.url).exists() or not any(Path(folder.url).iterdir())
