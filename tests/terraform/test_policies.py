"""Who may do what, asked of a server that checks signatures and policies.

The policies come from `terraform apply`; identities hold nothing but one of them. Requests are made with boto3, one
for each line of the roles' contract.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.terraform.account import Account, Identity
from tests.terraform.conftest import KMS_KEY, Shared

STORED = "teams/vision/bundles/fx_graph/key/default/id/manifest.json"
THEIRS = "payroll/2026.csv"
ROLES = ("reader", "writer", "admin")


@pytest.fixture(scope="module")
def identities(account: Account, shared: Shared) -> dict[str, Identity]:
    """Return one user for each policy."""
    return {role: account.user(f"a-{role}", shared.outputs[f"{role}_policy_arn"]) for role in ROLES}


@pytest.fixture(autouse=True)
def stored(account: Account, shared: Shared) -> Iterator[None]:
    """Store one object."""
    account.owner.client("s3").put_object(Bucket=shared.bucket, Key=STORED, Body=b"{}", IfNoneMatch="*")
    yield
    account.owner.client("s3").delete_object(Bucket=shared.bucket, Key=STORED)


def outcome(call: Any, **arguments: Any) -> str:
    """Return "ok", or the code of the error that the server answered with."""
    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "ok"


DENIED = ("AccessDenied", "403")


def test_server_checks_signatures(account: Account, shared: Shared, identities: dict[str, Identity]) -> None:
    """The server is not one that lets everybody in: a wrong secret is refused."""
    environ = identities["admin"].environ | {"AWS_SECRET_ACCESS_KEY": "guessed"}
    assert (
        outcome(Identity(environ).client("s3").get_object, Bucket=shared.bucket, Key=STORED) == "SignatureDoesNotMatch"
    )


@pytest.mark.parametrize("role", ROLES)
def test_every_role_reads_below_the_prefix_only(
    account: Account, shared: Shared, identities: dict[str, Identity], role: str
) -> None:
    """Get and list answer below the prefix, and are refused beside it and for the bucket as a whole."""
    s3 = identities[role].client("s3")
    assert outcome(s3.get_object, Bucket=shared.bucket, Key=STORED) == "ok"
    assert outcome(s3.get_object, Bucket=shared.bucket, Key=STORED.replace("key", "other")) == "NoSuchKey"
    assert outcome(s3.get_object, Bucket=shared.bucket, Key=THEIRS) in DENIED
    for prefix in ("teams/vision/", "teams/vision/bundles/fx_graph/key/"):
        assert outcome(s3.list_objects_v2, Bucket=shared.bucket, Prefix=prefix) == "ok"
    for prefix in ("", "payroll/", "teams/", "teams/vision", "teams/vision-2/"):
        assert outcome(s3.list_objects_v2, Bucket=shared.bucket, Prefix=prefix) in DENIED, prefix
    assert outcome(s3.list_objects_v2, Bucket=shared.bucket) in DENIED


@pytest.mark.parametrize(("role", "may"), [("reader", False), ("writer", True), ("admin", True)])
def test_writers_create(shared: Shared, identities: dict[str, Identity], role: str, may: bool) -> None:
    """A new object may be created by writers, with the header, below the prefix."""
    s3 = identities[role].client("s3")
    new = f"teams/vision/kernels/{role}"
    answer = outcome(s3.put_object, Bucket=shared.bucket, Key=new, Body=b"x", IfNoneMatch="*")
    assert answer == "ok" if may else answer in DENIED
    beside = outcome(s3.put_object, Bucket=shared.bucket, Key=f"kernels/{role}", Body=b"x", IfNoneMatch="*")
    assert beside in DENIED


@pytest.mark.parametrize("role", ["writer", "admin"])
def test_nobody_overwrites(account: Account, shared: Shared, identities: dict[str, Identity], role: str) -> None:
    """A put without `If-None-Match` is refused by the bucket policy, one with it by what is there already."""
    s3 = identities[role].client("s3")
    assert outcome(s3.put_object, Bucket=shared.bucket, Key=STORED, Body=b"bad") in DENIED
    assert outcome(s3.put_object, Bucket=shared.bucket, Key=STORED.replace("key", "new"), Body=b"bad") in DENIED
    assert outcome(s3.put_object, Bucket=shared.bucket, Key=STORED, Body=b"x", IfNoneMatch="*") == "PreconditionFailed"
    assert s3.get_object(Bucket=shared.bucket, Key=STORED)["Body"].read() == b"{}"


def test_large_objects_are_created_in_parts(shared: Shared, identities: dict[str, Identity]) -> None:
    """Parts need no header, the request that completes them does; an upload can be taken back."""
    s3 = identities["writer"].client("s3")
    place = {"Bucket": shared.bucket, "Key": "teams/vision/bundles/large/pack.tar.zst"}

    upload = {**place, "UploadId": s3.create_multipart_upload(**place)["UploadId"]}
    part = s3.upload_part(**upload, PartNumber=1, Body=b"x" * 100)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    assert outcome(s3.complete_multipart_upload, **upload, MultipartUpload=parts) in DENIED
    assert outcome(s3.complete_multipart_upload, **upload, MultipartUpload=parts, IfNoneMatch="*") == "ok"

    upload["UploadId"] = s3.create_multipart_upload(**place)["UploadId"]
    assert outcome(s3.abort_multipart_upload, **upload) == "ok"


@pytest.mark.parametrize(("role", "may"), [("reader", False), ("writer", False), ("admin", True)])
def test_only_the_admin_deletes(shared: Shared, identities: dict[str, Identity], role: str, may: bool) -> None:
    """Delete is the admin's, and ends at the prefix."""
    s3 = identities[role].client("s3")
    answer = outcome(s3.delete_object, Bucket=shared.bucket, Key=STORED)
    assert answer == "ok" if may else answer in DENIED
    assert outcome(s3.delete_object, Bucket=shared.bucket, Key="logs/today") in DENIED


@pytest.mark.parametrize("role", ROLES)
def test_nothing_works_without_tls(
    account: Account, shared: Shared, identities: dict[str, Identity], role: str
) -> None:
    """Over plain HTTP even an allowed read is refused."""
    s3 = identities[role].client("s3", account.plain_url)
    assert outcome(s3.get_object, Bucket=shared.bucket, Key=STORED) in DENIED


@pytest.mark.parametrize("role", ["reader", "writer"])
def test_roles_carry_their_policies(account: Account, shared: Shared, role: str) -> None:
    """Whoever takes the role that a trust policy made may do what its policy says, and no more."""
    s3 = account.assume(shared.outputs[f"{role}_role_arn"]).client("s3")
    assert outcome(s3.get_object, Bucket=shared.bucket, Key=STORED) == "ok"
    put = outcome(s3.put_object, Bucket=shared.bucket, Key=f"teams/vision/by-{role}", Body=b"x", IfNoneMatch="*")
    assert put == "ok" if role == "writer" else put in DENIED
    assert outcome(s3.delete_object, Bucket=shared.bucket, Key=STORED) in DENIED


def test_kms_grants_end_at_the_key(account: Account, shared: Shared) -> None:
    """With a KMS key every role may decrypt with that key, and those who write may encrypt."""
    iam = account.owner.client("iam")
    granted = {}
    for role in ROLES:
        policy = {"PolicyArn": shared.outputs[f"{role}_policy_arn"]}
        document = iam.get_policy_version(**policy, VersionId="v1")["PolicyVersion"]["Document"]
        granted[role] = {
            statement["Action"]: statement["Resource"]
            for statement in document["Statement"]
            if str(statement["Action"]).startswith("kms:")
        }
    decrypt, both = {"kms:Decrypt": KMS_KEY}, {"kms:Decrypt": KMS_KEY, "kms:GenerateDataKey": KMS_KEY}
    assert granted == {"reader": decrypt, "writer": both, "admin": both}
