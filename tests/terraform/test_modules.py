"""The modules by themselves: formatted, valid, and right by their own tests.

The google provider is published nowhere that this suite may count on, so terraform/gcp is never validated against the
provider's schema: it is formatted (here), read as HCL (test_structure.py) and scanned (test_checkov.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.terraform.program import Terraform, copy_source


def test_every_file_is_formatted(tree: Path) -> None:
    """`terraform fmt` would change nothing."""
    assert Terraform(tree).run("fmt", "-check", "-recursive", "-diff").stdout == ""


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Return a copy of the AWS module, initialised."""
    terraform = Terraform(copy_source(tmp_path_factory.mktemp("modules")) / "aws")
    terraform.init()
    return terraform


def test_aws_module_is_valid(aws: Terraform) -> None:
    """Every argument exists in the provider's schema."""
    aws.run("validate", "-no-color")


def test_aws_module_passes_its_own_tests(aws: Terraform) -> None:
    """`terraform test`, with a mocked provider."""
    runs = (aws.folder / "tests" / "defaults.tftest.hcl").read_text().count('\nrun "')
    assert f"{runs} passed, 0 failed" in aws.run("test", "-no-color").stdout
