"""What the tests of terraform/ share: a copy of the folder, an account, and the module applied to it once each way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.terraform.account import Account, open_account
from tests.terraform.apply_and_sync import BUCKET, apply
from tests.terraform.program import Terraform, copy_source

Applying = Future[tuple[Terraform, dict[str, Any]]]

#: The owner's, in the shared bucket.
KMS_KEY = "arn:aws:kms:eu-west-1:123456789012:key/0f4d1c33-0000-4000-8000-000000000000"

#: Trusts any identity of the account, which is what moto can check.
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of terraform/ to work in."""
    return copy_source(tmp_path)


@pytest.fixture(scope="package")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """Yield an AWS account on loopback, where policies mean what they say."""
    with open_account(tmp_path_factory.mktemp("account")) as opened:
        yield opened


@dataclass(frozen=True)
class Shared:
    """Somebody's bucket, with the module applied to a prefix of it and its documents merged by the owner.

    Attributes:
        before: the bucket's policy and lifecycle rules, as its owner had made them.
        after_apply: the same after `terraform apply`, before the owner merged anything.
        outputs: of the module.
    """

    bucket: str
    terraform: Terraform
    before: dict[str, Any]
    after_apply: dict[str, Any]
    outputs: dict[str, Any]


@pytest.fixture(scope="package")
def shared(account: Account, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Apply `create_bucket = false` below `teams/vision` of a bucket that has rules of its own."""
    bucket = "somebody-elses-bucket"
    terraform = Terraform(copy_source(tmp_path_factory.mktemp("shared")) / "aws", account.owner.environ)
    terraform.init()

    s3 = account.owner.client("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="payroll/2026.csv", Body=b"private")
    theirs = {
        "Sid": "Theirs",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:DeleteObject",
        "Resource": f"arn:aws:s3:::{bucket}/payroll/*",
    }
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [theirs]}))
    keep = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 365}}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [keep]})
    before = _rules_of(s3, bucket)

    outputs = terraform.apply(
        bucket_name=bucket,
        create_bucket="false",
        prefix="teams/vision",
        name="vision",
        retention_days="30",
        kms_key_arn=KMS_KEY,
        reader_trust_policy=json.dumps(_TRUST),
        writer_trust_policy=json.dumps(_TRUST),
    )
    after_apply = _rules_of(s3, bucket)

    statements = [theirs, *json.loads(outputs["bucket_policy_statements"])["Statement"]]
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    rules = [keep, *json.loads(outputs["lifecycle_rules"])["Rules"]]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    return Shared(bucket=bucket, terraform=terraform, before=before, after_apply=after_apply, outputs=outputs)


@dataclass(frozen=True)
class Example:
    """The AWS example as it stands in the repository, applied."""

    bucket: str
    terraform: Terraform
    outputs: dict[str, Any]


@pytest.fixture(scope="package", autouse=True)
def applying(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applying | None]:
    """Start to apply the example while other tests run, if one will ask for it: most of that minute is waiting."""
    if not any("example" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    account: Account = request.getfixturevalue("account")
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool.submit(apply, account, tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="package")
def example(applying: Applying) -> Example:
    """Return the AWS example, applied."""
    terraform, outputs = applying.result()
    return Example(bucket=BUCKET, terraform=terraform, outputs=outputs)


def _rules_of(s3: Any, bucket: str) -> dict[str, Any]:
    return {
        "policy": json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"]),
        "lifecycle": s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"],
    }
