"""What somebody gets who installs the package, or takes its sources."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

import tritonsync

ROOT = Path(__file__).parent.parent

CONSUMER = """
from tritonsync import Bucket, Store, TritonSyncError

def kernels(url: str) -> int:
    try:
        with Bucket(url) as bucket:
            return sum(len(loaded.bundle.kernels) for loaded in Store(bucket).load("workload", "vit", newest=1).bundles)
    except TritonSyncError as exc:
        print(exc.url, exc.hint)
        return 0

reveal_type(Store(Bucket("x")).load("workload", "vit"))
kernels(1)
"""


def test_types_reach_those_who_use_the_package(tmp_path: Path) -> None:
    """`py.typed` is installed: a strict mypy elsewhere knows what things are, and finds what is wrong."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    shutil.copytree(ROOT / "tritonsync", Path(site) / "tritonsync", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "consumer.py").write_text(CONSUMER)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", folder / "bin/python"]
    done = subprocess.run(
        [*map(str, command), "consumer.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    said = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert said == [
        'note: Revealed type is "tritonsync.store.reader.Found"',
        'error: Argument 1 to "kernels" has incompatible type "int"; expected "str"  [arg-type]',
        "",
    ], done.stdout


def test_the_version_is_told_once() -> None:
    """The metadata and the package agree."""
    assert importlib.metadata.version("tritonsync") == tritonsync.__version__


def test_sources_hold_what_the_readme_leads_to(tmp_path: Path) -> None:
    """Terraform's modules, tests, changelog and security policy too; nothing that was only built."""
    builder = pytest.importorskip("hatchling.builders.sdist", reason="hatchling is not installed")
    archive = next(builder.SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with tarfile.open(archive) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    for link in (link for link in links if "://" not in link):
        assert any(name == link or name.startswith(link.rstrip("/") + "/") for name in names), link
    assert {"terraform/aws/main.tf", ".github/CHANGELOG.md", ".github/SECURITY.md", "pyproject.toml"} <= names
    assert not [name for name in names if "__pycache__" in name or ".terraform/" in name]
