"""checkov's rules for buckets and IAM, from a folder of its own for sys.path.

Of its own, because checkov pins an old boto3, and because its fork of python-hcl2 installs the same `hcl2` module as
the one that test_structure.py reads with.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.terraform.program import SOURCE

# Exactly one version: each release adds rules.
CHECKOV = "checkov==3.3.30"


@pytest.fixture(scope="module")
def checkov(pytestconfig: pytest.Config) -> Path:
    """Return the folder, filled once in pytest's cache folder; without an index to install from, skip aloud."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir(f"{CHECKOV.replace('==', '-')}-{sys.implementation.cache_tag}")
    complete = folder / "complete"
    if not complete.exists():
        # Most of its modules are never imported: those that are get compiled then.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        installed = subprocess.run(
            [*pip, "--upgrade", "--target", folder, CHECKOV], capture_output=True, text=True, check=False
        )
        if installed.returncode != 0:
            pytest.skip(f"checkov could not be installed: {installed.stderr.strip().splitlines()[-1]}")
        complete.touch()
    return folder


def scan(checkov: Path, folder: Path) -> dict[str, Any]:
    """Return checkov's own report of a folder."""
    # Without --skip-download it calls home.
    options = ["--framework", "terraform", "--skip-download", "--quiet", "--output", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "checkov.main", "-d", folder, *options],
        env={**os.environ, "PYTHONPATH": str(checkov)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("{"), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_nothing_fails(checkov: Path) -> None:
    """No rule fails but those that are skipped in the files."""
    report = scan(checkov, SOURCE)
    assert report["results"]["failed_checks"] == []
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 50


def test_every_skip_is_needed_and_has_its_reason(checkov: Path, tree: Path) -> None:
    """Without the skips exactly those rules fail, and beside each stands a sentence that says why it may."""
    skipped: list[str] = []
    for file in tree.rglob("*.tf"):
        text = file.read_text()
        for rule, reason in re.findall(r"#checkov:skip=(\w+):(.*)", text):
            assert len(reason.split()) >= 5, f"{rule} is skipped in {file.name} without a reason"
            skipped.append(rule)
        file.write_text(re.sub(r"#checkov:skip=.*", "", text))
    failed = {check["check_id"] for check in scan(checkov, tree)["results"]["failed_checks"]}
    assert Counter(failed) == Counter(skipped)


def test_a_public_bucket_would_be_found(checkov: Path, tree: Path) -> None:
    """The scan sees what it is there for, on both clouds."""
    for file, safe, unsafe in (
        ("aws/main.tf", "block_public_acls       = true", "block_public_acls       = false"),
        ("gcp/main.tf", '"enforced"', '"inherited"'),
    ):
        text = (tree / file).read_text()
        assert safe in text
        (tree / file).write_text(text.replace(safe, unsafe))
    failed = {check["check_id"] for check in scan(checkov, tree)["results"]["failed_checks"]}
    assert {"CKV_AWS_53", "CKV_GCP_114"} <= failed
