"""What `terraform apply` leaves behind in somebody else's bucket."""

from __future__ import annotations

import json

from tests.terraform.account import Account
from tests.terraform.conftest import Shared


def test_shared_bucket_is_left_as_it_was(shared: Shared) -> None:
    """With `create_bucket = false` an apply changes neither the bucket's policy nor its lifecycle rules."""
    assert shared.after_apply == shared.before


def test_owner_merges_what_ends_at_the_prefix(shared: Shared) -> None:
    """The documents for the owner hold the rules of an own bucket, cut down to the prefix."""
    statements = json.loads(shared.outputs["bucket_policy_statements"])["Statement"]
    assert {statement["Sid"] for statement in statements} == {"TritonsyncTlsOnly", "TritonsyncCreateOnly"}
    assert {statement["Effect"] for statement in statements} == {"Deny"}
    assert {statement["Resource"] for statement in statements} == {f"arn:aws:s3:::{shared.bucket}/teams/vision/*"}
    rules = json.loads(shared.outputs["lifecycle_rules"])["Rules"]
    assert {rule["Filter"]["Prefix"] for rule in rules} == {"teams/vision/"}
    assert [rule["Expiration"]["Days"] for rule in rules if "Expiration" in rule] == [30]
    assert [rule["AbortIncompleteMultipartUpload"] for rule in rules if "Expiration" not in rule] == [
        {"DaysAfterInitiation": 1}
    ]


def test_merged_bucket_keeps_both_sides_rules(account: Account, shared: Shared) -> None:
    """S3 takes the merged documents: the owner's rules stand beside the module's."""
    s3 = account.owner.client("s3")
    policy = json.loads(s3.get_bucket_policy(Bucket=shared.bucket)["Policy"])
    assert {statement["Sid"] for statement in policy["Statement"]} == {
        "Theirs",
        "TritonsyncTlsOnly",
        "TritonsyncCreateOnly",
    }
    rules = s3.get_bucket_lifecycle_configuration(Bucket=shared.bucket)["Rules"]
    assert {rule["ID"] for rule in rules} == {"theirs", "tritonsync-abort-uploads", "tritonsync-expire"}
