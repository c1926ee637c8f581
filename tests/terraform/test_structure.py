"""What a user of either module relies on, read from the files with python-hcl2; the only check of types on GCP."""

from __future__ import annotations

import re
from typing import Any

import hcl2
import pytest

from tests.terraform.program import SOURCE

CLOUDS = ("aws", "gcp")
FILES = {"versions.tf", "variables.tf", "main.tf", "iam.tf", "outputs.tf"}
#: What both clouds have, in the same words.
SHARED_VARIABLES = {"bucket_name", "prefix", "retention_days"}
#: What means the same under two names, because each cloud has its own word for it.
TWINS = {"kms_key_arn": "kms_key_name", "tags": "labels"}


_LABELS = {"terraform": 0, "provider": 1, "variable": 1, "output": 1, "module": 1, "resource": 2}


def blocks(path: str, kind: str) -> dict[str, dict[str, Any]]:
    """Return the blocks of one kind in a file, or in all files of a folder, by their last label."""
    place = SOURCE / path
    found: dict[str, dict[str, Any]] = {}
    for file in place.glob("*.tf") if place.is_dir() else [place]:
        for block in hcl2.loads(file.read_text()).get(kind, []):
            name = kind
            for _ in range(_LABELS[kind]):
                name = next(label for label in block if label.startswith('"'))
                block = block[name]
            found[name.strip('"')] = block
    return found


@pytest.mark.parametrize("cloud", CLOUDS)
def test_module_has_the_usual_files(cloud: str) -> None:
    """Whoever has read one Terraform module finds the way in this one."""
    assert {file.name for file in (SOURCE / cloud).glob("*.tf")} == FILES


@pytest.mark.parametrize("cloud", CLOUDS)
def test_variables_and_outputs_are_described(cloud: str) -> None:
    """Every variable has a type and a sentence, every output a sentence; each stands in its own file."""
    variables, outputs = blocks(f"{cloud}/variables.tf", "variable"), blocks(f"{cloud}/outputs.tf", "output")
    assert variables.keys() == blocks(cloud, "variable").keys()
    assert outputs.keys() == blocks(cloud, "output").keys()
    assert outputs
    for name, block in (variables | outputs).items():
        assert re.fullmatch(r'"[A-Z].*\."', block["description"]), f"{name} is not described in a sentence"
    for name, block in variables.items():
        assert "type" in block, f"{name} has no type"


def test_clouds_use_the_same_names() -> None:
    """A variable that both have means the same: type, default and check are equal; so are the twins' types."""
    aws, gcp = (blocks(f"{cloud}/variables.tf", "variable") for cloud in CLOUDS)
    assert aws.keys() & gcp.keys() == SHARED_VARIABLES
    for name in SHARED_VARIABLES:
        for field in ("type", "default", "nullable"):
            assert aws[name].get(field) == gcp[name].get(field), f"{field} of {name} differs"
        checks = [
            [(check["condition"], check["error_message"]) for check in variables[name].get("validation", [])]
            for variables in (aws, gcp)
        ]
        assert checks[0] == checks[1], f"the checks of {name} differ"
    for here, there in TWINS.items():
        assert (aws[here]["type"], aws[here]["default"]) == (gcp[there]["type"], gcp[there]["default"])
    assert "url" in blocks("aws", "output").keys() & blocks("gcp", "output").keys()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_module_configures_no_provider(cloud: str) -> None:
    """The caller's provider is used: a module with a provider block of its own cannot be removed again."""
    assert blocks(cloud, "provider") == {}
    assert blocks(f"{cloud}/versions.tf", "terraform")["terraform"]["required_version"] == '">= 1.3"'


@pytest.mark.parametrize("cloud", CLOUDS)
def test_example_calls_its_module_with_names_that_exist(cloud: str) -> None:
    """The example passes only variables of the module and returns only its outputs."""
    call = blocks(f"examples/{cloud}", "module")["tritonsync"]
    assert call["source"] == f'"../../{cloud}"'
    given = call.keys() - {"source", "__is_block__"}
    variables = blocks(cloud, "variable")
    assert given <= variables.keys()
    assert {name for name, block in variables.items() if "default" not in block} <= given
    for name, output in blocks(f"examples/{cloud}", "output").items():
        assert output["value"] == f"${{module.tritonsync.{name}}}"
        assert name in blocks(cloud, "output")


def test_gcp_bucket_is_private_and_writers_cannot_overwrite() -> None:
    """The arguments that make the GCP module safe are the ones that its provider documents."""
    bucket = blocks("gcp/main.tf", "resource")["this"]
    assert bucket["uniform_bucket_level_access"] is True
    assert bucket["public_access_prevention"] == '"enforced"'
    assert bucket["soft_delete_policy"][0]["retention_duration_seconds"] == 0
    assert {rule["action"][0]["type"] for rule in bucket["lifecycle_rule"]} == {
        '"AbortIncompleteMultipartUpload"',
        '"Delete"',
    }
    grants = blocks("gcp/iam.tf", "resource")
    assert {(block["role"].strip('"'), block["for_each"]) for block in grants.values()} == {
        ("roles/storage.objectViewer", "${setunion(var.readers, var.writers)}"),
        ("roles/storage.objectCreator", "${var.writers}"),
        ("roles/storage.objectUser", "${var.admins}"),
    }


@pytest.mark.parametrize("cloud", CLOUDS)
def test_readme_lists_every_variable_and_output(cloud: str) -> None:
    """The tables of terraform/README.md are complete, and name nothing that is gone."""
    readme = (SOURCE / "README.md").read_text()
    section = readme.split(f"### `terraform/{cloud}`")[1].split("\n## ")[0].split("\n### ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert named == blocks(cloud, "variable").keys() | blocks(cloud, "output").keys()
