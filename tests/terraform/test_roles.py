"""The roles, tried by tritonsync itself: its bucket, with the policies that `terraform apply` made.

The server checks signatures and policies; credentials reach tritonsync as they reach it in production, through the
environment.
"""

from __future__ import annotations

import pytest

from tests.servers import LIMIT
from tests.terraform.account import Account, Identity
from tests.terraform.conftest import Shared
from tritonsync.errors import AccessDeniedError
from tritonsync.remote.bucket import Bucket

pytest.importorskip("s3fs")


def open_as(identity: Identity, url: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Open the bucket with the identity's variables."""
    for variable, text in identity.environ.items():
        monkeypatch.setenv(variable, text)
    return Bucket(url)


def test_writer_creates_and_cannot_delete(account: Account, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer finds that it may write, creates an object once, reads and lists it, and may not take it away."""
    writer = account.user("bucket-writer", shared.outputs["writer_policy_arn"])
    with open_as(writer, shared.outputs["url"], monkeypatch) as bucket:
        assert bucket.probe() == "read-write"
        assert bucket.create("kernels/hash/id/file", b"first")
        assert not bucket.create("kernels/hash/id/file", b"second")
        assert bucket.get("kernels/hash/id/file", limit=LIMIT) == b"first"
        assert "kernels/hash/id/file" in bucket.list()
        with pytest.raises(AccessDeniedError, match="s3:DeleteObject"):
            bucket.delete("kernels/hash/id/file")
        assert bucket.get("kernels/hash/id/file", limit=LIMIT) == b"first"


def test_writer_creates_large_objects(account: Account, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that s3fs uploads in parts passes the rule that writes are create-only."""
    writer = account.user("bucket-large-writer", shared.outputs["writer_policy_arn"])
    # s3fs sends less than 100 MiB in one request.
    large = bytes(101 * 2**20)
    with open_as(writer, shared.outputs["url"], monkeypatch) as bucket:
        assert bucket.create("bundles/large", large)
        assert bucket.list("bundles/")["bundles/large"].size == len(large)
    stored = account.owner.client("s3").head_object(Bucket=shared.bucket, Key="teams/vision/bundles/large")
    assert stored["ETag"].endswith('-3"'), "it was not uploaded in parts"


def test_reader_reads_and_cannot_write(account: Account, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader finds that it may not write, reads, misses without an error, and is told which permission it lacks."""
    stored = {"Bucket": shared.bucket, "Key": "teams/vision/bundles/stored"}
    reader = account.user("bucket-reader", shared.outputs["reader_policy_arn"])
    writer = account.user("bucket-first-writer", shared.outputs["writer_policy_arn"])
    writer.client("s3").put_object(**stored, Body=b"x", IfNoneMatch="*")
    with open_as(reader, shared.outputs["url"], monkeypatch) as bucket:
        assert bucket.probe() == "read-only"
        assert bucket.get("bundles/stored", limit=LIMIT) == b"x"
        assert bucket.get("bundles/absent", limit=LIMIT) is None
        assert bucket.list("bundles/fx_graph/absent/") == {}
        with pytest.raises(AccessDeniedError, match="s3:PutObject"):
            bucket.create("bundles/mine", b"x")
        with pytest.raises(AccessDeniedError):
            bucket.delete("bundles/stored")


def test_worker_without_list_is_told_so(account: Account, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hand-made policy that forgot s3:ListBucket: the first lookup names the permission that is missing."""
    get = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{shared.bucket}/*"}
    worker = account.user_with("without-list", get)
    told = pytest.raises(AccessDeniedError, match=r"access denied .* needs s3:GetObject and s3:ListBucket")
    with open_as(worker, shared.outputs["url"], monkeypatch) as bucket, told:
        bucket.list("bundles/fx_graph/key/")


def test_admin_deletes(account: Account, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """An admin removes what a writer made."""
    admin = account.user("bucket-admin", shared.outputs["admin_policy_arn"])
    with open_as(admin, shared.outputs["url"], monkeypatch) as bucket:
        assert bucket.create("bundles/old", b"x")
        bucket.delete("bundles/old")
        assert bucket.get("bundles/old", limit=LIMIT) is None


def test_worker_with_a_role(account: Account, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary credentials of the reader's role read like the policy does."""
    reader = account.assume(shared.outputs["reader_role_arn"])
    with open_as(reader, shared.outputs["url"], monkeypatch) as bucket:
        assert bucket.probe() == "read-only"
        assert bucket.get("bundles/absent", limit=LIMIT) is None
