"""The lowest versions that the package says it works with: the commands work with them, over a folder, S3 and GCS."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import Place

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def lowest() -> list[str]:
    """Read what users install: every requirement of the package and of its clients, as `name==version`."""
    needed = re.search(r"^dependencies = \[\n(.*?)^\]", PYPROJECT, re.MULTILINE | re.DOTALL)
    assert needed is not None
    clients = [re.search(rf"^{extra} = (\[.*\])$", PYPROJECT, re.MULTILINE) for extra in ("s3", "gcs", "fast")]
    found = [needed[1], *(each[1] for each in clients if each is not None)]
    return [f"{name}=={version}" for name, version in re.findall(r'"([a-z0-9]+)>=([\d.]+)', "\n".join(found))]


def test_every_dependency_has_a_lowest_version() -> None:
    """Eight of the package's own and three clients."""
    assert len(lowest()) == 11


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the lowest versions: that of TRITONSYNC_TEST_LOWEST, else one in an environment of its own."""
    if "TRITONSYNC_TEST_LOWEST" in os.environ:
        return Path(os.environ["TRITONSYNC_TEST_LOWEST"])
    if sys.version_info >= (3, 12):
        pytest.skip("the lowest versions have no wheels for this Python")
    folder = tmp_path_factory.mktemp("lowest")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=300)
    install = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *lowest()]
    done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=800)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package index is reached")
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_commands_work_with_the_lowest_versions(
    python: Path, h200_vit: Path, s3_place: Place, gcs_place: Place, tmp_path: Path
) -> None:
    """A sample goes through each client and back, a cache through a folder, and what people look at is shown."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith(("TRITONSYNC_", "AWS_"))}
    places = [
        (str(tmp_path / "bucket"), {}),
        (s3_place.url, {**s3_place.environment, "TRITONSYNC_ENGINE": "s3fs"}),
        (s3_place.url, {**s3_place.environment, "TRITONSYNC_ENGINE": "obstore"}),
        (gcs_place.url, {"TRITONSYNC_STORAGE_OPTIONS": json.dumps(dict(gcs_place.options))}),
    ]

    def run(*command: object, **variables: str) -> str:
        done = subprocess.run(
            [str(python), "-m", "tritonsync", *map(str, command)],
            env={**ours, "PYTHONPATH": str(ROOT), **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for url, variables in places:
        # Publishes and restores a sample, and deletes it again.
        assert json.loads(run("bench", "--url", url, "--json", **variables))["create_only"] is True
    target = ("--url", tmp_path / "bucket", "--workload", "vit", "--inductor-dir")
    run("push", *target, h200_vit)
    run("pull", "--strict", *target, tmp_path / "here")
    run("--help")
    run("verify", "--url", tmp_path / "bucket")
    run("keygen", "--out", tmp_path / "keys")
