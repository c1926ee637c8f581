"""Programs, run as somebody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.terraform.account import Identity

__all__ = ["python_as", "report_of", "tritonsync_as"]

Arguments = str | os.PathLike[str]


def python_as(identity: Identity, *arguments: Arguments, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the identity's credentials and no others, and with none of this process's settings."""
    foreign = ("AWS_", "TRITONSYNC_", "TORCHINDUCTOR_", "TRITON_")
    environ = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[2],
        env={**environ, **identity.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def tritonsync_as(identity: Identity, *arguments: Arguments) -> subprocess.CompletedProcess[str]:
    """Run the `tritonsync` command."""
    return python_as(identity, "-m", "tritonsync", *arguments)


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON that a program printed; the test fails with all that it said where it did not succeed."""
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout)
    return report
