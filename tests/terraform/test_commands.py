"""The roles, tried by the `tritonsync` command with a real cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.terraform.account import Account, Identity
from tests.terraform.commands import report_of, tritonsync_as
from tests.terraform.conftest import Shared
from tests.terraform.program import SOURCE

pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def writer(account: Account, shared: Shared) -> Identity:
    """Return somebody with the writer's policy."""
    return account.user("command-writer", shared.outputs["writer_policy_arn"])


@pytest.fixture(scope="module")
def reader(account: Account, shared: Shared) -> Identity:
    """Return somebody with the reader's policy."""
    return account.user("command-reader", shared.outputs["reader_policy_arn"])


@pytest.fixture(scope="module")
def target(shared: Shared) -> tuple[str, ...]:
    """Return the options that every command takes."""
    return ("--url", shared.outputs["url"], "--workload", "vit", "--json")


@pytest.fixture(scope="module")
def pushed(writer: Identity, target: tuple[str, ...], h200_vit: Path) -> dict[str, int]:
    """Push a real cache as the writer, and return the report."""
    return report_of(tritonsync_as(writer, "push", *target, "--inductor-dir", h200_vit))


def test_writer_pushes_once(pushed: dict[str, int], writer: Identity, target: tuple[str, ...], h200_vit: Path) -> None:
    """The writer's rights are enough for a whole push, and a second one has nothing to add."""
    assert pushed["kernels_new"] == pushed["kernels"] > 0
    again = report_of(tritonsync_as(writer, "push", *target, "--inductor-dir", h200_vit))
    assert again["objects_created"] == 0


def test_reader_pulls(pushed: dict[str, int], reader: Identity, target: tuple[str, ...], tmp_path: Path) -> None:
    """The reader's rights are enough for a whole pull."""
    pulled = report_of(tritonsync_as(reader, "pull", *target, "--inductor-dir", tmp_path / "cache"))
    assert pulled["kernels_emitted"] == pushed["kernels"]
    assert pulled["conflicts"] == 0


def test_reader_cannot_push(reader: Identity, target: tuple[str, ...], h200_vit: Path) -> None:
    """A push with the reader's rights says in one line what the matter is."""
    done = tritonsync_as(reader, "push", *target, "--inductor-dir", h200_vit)
    assert done.returncode == 1
    assert "can be read but not written" in done.stderr
    assert done.stderr.count("\n") == 1


def test_worker_without_list_is_told_so(
    account: Account, shared: Shared, target: tuple[str, ...], tmp_path: Path
) -> None:
    """A pull with a hand-made policy that forgot s3:ListBucket names the permission that is missing."""
    get = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{shared.bucket}/*"}
    worker = account.user_with("command-without-list", get)
    done = tritonsync_as(worker, "pull", *target, "--inductor-dir", tmp_path / "cache")
    assert done.returncode == 1
    assert "s3:ListBucket" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("workload", "warm"), [("vit", True), ("unknown", False)])
def test_init_container_pulls_and_never_keeps_a_pod_from_starting(
    pushed: dict[str, int], shared: Shared, reader: Identity, tmp_path: Path, workload: str, warm: bool
) -> None:
    """The Kubernetes example's init container, run as it stands, fills the cache, or says so and lets the pod start."""
    manifest = yaml.safe_load((SOURCE / "examples" / "kubernetes" / "workers-init-container.yaml").read_text())
    [container] = manifest["spec"]["template"]["spec"]["initContainers"]
    command = tmp_path / "bin" / "tritonsync"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tritonsync "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        container["command"],
        cwd=SOURCE.parent,
        env={
            **reader.environ,
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "TRITONSYNC_URL": shared.outputs["url"],
            "TRITONSYNC_WORKLOAD": workload,
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert ("starting cold" in done.stdout) != warm
    assert (tmp_path / "cache" / "fxgraph").is_dir() == warm
