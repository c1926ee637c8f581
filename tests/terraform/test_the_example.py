"""The AWS example: what it makes, and that its outputs are all that tritonsync needs.

Last in the alphabet, so that the apply that started with the first test is done.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.terraform.account import Account
from tests.terraform.apply_and_sync import sync
from tests.terraform.conftest import Example


@pytest.mark.slow
def test_example_makes_a_private_bucket(account: Account, example: Example) -> None:
    """Applied as it stands, the example makes a bucket that is private, encrypted, and cleans up after itself."""
    s3 = account.owner.client("s3")
    bucket = example.bucket
    assert example.outputs["url"] == f"s3://{bucket}/tritonsync"
    assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}
    [ownership] = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert ownership["ObjectOwnership"] == "BucketOwnerEnforced"
    [encryption] = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert encryption["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"

    rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert rules["tritonsync-expire"]["Filter"]["Prefix"] == "tritonsync/"
    assert rules["tritonsync-expire"]["Expiration"]["Days"] == 90
    assert rules["tritonsync-abort-uploads"]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 1

    statements = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert {statement["Sid"]: statement["Resource"] for statement in statements} == {
        "TritonsyncTlsOnly": [f"arn:aws:s3:::{bucket}/*", f"arn:aws:s3:::{bucket}"],
        "TritonsyncCreateOnly": f"arn:aws:s3:::{bucket}/tritonsync/*",
    }


@pytest.mark.slow
def test_example_settles(example: Example) -> None:
    """A second plan finds nothing to change."""
    example.terraform.run("plan", "-detailed-exitcode", f"-var=bucket_name={example.bucket}", accept=(0,))


@pytest.mark.slow
def test_outputs_of_the_example_are_settings(
    account: Account, example: Example, h200_vit: Path, tmp_path: Path
) -> None:
    """A cache pushed with the writer's policy is verified and restored with the reader's, graphs byte for byte."""
    restored = tmp_path / "restored"
    reports = sync(account, example.outputs, h200_vit, restored)
    assert reports["push"]["kernels_new"] > 0
    assert reports["verify"]["bad"] == []
    assert reports["pull"]["kernels_emitted"] == reports["push"]["kernels"]
    for folder in ("fxgraph", "aotautograd"):
        assert files_of(restored / folder) == files_of(h200_vit / folder) != {}


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
