"""Terraform, run on copies of the modules, so that no state and no plugin folder ever lies in the source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SOURCE", "Terraform", "copy_source"]

#: The folder under test.
SOURCE = Path(__file__).parents[2] / "terraform"

# A folder of providers laid out as HOST/NAMESPACE/TYPE/VERSION/PLATFORM, the shape of Terraform's own mirrors.
_PLUGIN_FOLDERS = ("~/.terraform.d/plugins", "/usr/local/share/terraform/plugins", *map(str, Path("/opt").glob("*")))


class Terraform:
    """The `terraform` of this machine, in one folder, with one environment.

    Args:
        folder: the root module; a copy, never the source tree.
        environ: variables on top of this process's own.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.environ = {name: value for name, value in os.environ.items() if name != "TF_CLI_CONFIG_FILE"}
        self.environ |= {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_INPUT": "0"}
        self.environ |= environ or {}

    def run(self, *arguments: str, accept: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        """Run one command; the test fails with all that it said where its exit code is none of `accept`."""
        binary = shutil.which("terraform")
        if binary is None:
            pytest.skip("no terraform on PATH: the modules are not checked")
        done = subprocess.run(
            [binary, *arguments], cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False
        )
        if done.returncode not in accept:
            pytest.fail(f"terraform {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def init(self) -> None:
        """Initialise from a folder of providers; without one the test is skipped, aloud."""
        self.run("init", "-no-color", f"-plugin-dir={_plugins('hashicorp/aws')}")

    def apply(self, **variables: str) -> dict[str, Any]:
        """Apply, and return the outputs."""
        self.run("apply", "-auto-approve", "-no-color", *(f"-var={name}={text}" for name, text in variables.items()))
        outputs = json.loads(self.run("output", "-json").stdout)
        return {name: output["value"] for name, output in outputs.items()}


def copy_source(folder: Path) -> Path:
    """Copy terraform/ into this folder, without what somebody's own Terraform runs may have left in it."""
    return shutil.copytree(SOURCE, folder / "terraform", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))


def _plugins(provider: str) -> Path:
    named = os.environ.get("TF_PLUGIN_DIR")
    folders = [named] if named else _PLUGIN_FOLDERS
    for folder in map(Path, folders):
        found = folder.expanduser()
        if (found / "registry.terraform.io" / provider).is_dir():
            return found
    pytest.skip(f"no provider {provider} in {' or '.join(folders)}; name a folder of providers with TF_PLUGIN_DIR")
