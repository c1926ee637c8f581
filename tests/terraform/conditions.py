"""What moto leaves out of IAM: conditions on S3 requests.

moto checks actions and resources for real, but takes every condition of an S3 statement as met (its
`moto/iam/access_control.py` says so, 5.2). Here the conditions are evaluated from the request that is being answered,
as the AWS documentation describes them ("IAM JSON policy elements: Condition operators", "Enforce conditional writes
on Amazon S3 buckets"). That AWS itself does the same cannot be shown without AWS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import flask
import pytest
from moto.iam.access_control import IAMPolicyStatement, PermissionResult
from moto.s3.models import FakeBucket

__all__ = ["conditions_evaluated"]

# A key that is not in the request meets no condition but `Null: true`.
_OPERATORS: Mapping[str, Callable[[str | None, str], bool]] = {
    "Bool": lambda actual, expected: actual is not None and actual == expected,
    "Null": lambda actual, expected: (actual is None) == (expected == "true"),
    "StringEquals": lambda actual, expected: actual == expected,
    "StringLike": lambda actual, expected: actual is not None and fnmatchcase(actual, expected),
}

# moto asks a bucket's policy about `s3:<Method>Object`; these are the permissions that S3 asks about.
_PERMISSIONS = {"s3:PostObject": "s3:PutObject", "s3:HeadObject": "s3:GetObject"}


@contextmanager
def conditions_evaluated() -> Iterator[None]:
    """Evaluate conditions for as long as this is open, for every moto server of this process."""
    ask_statement = IAMPolicyStatement.is_action_permitted
    ask_bucket = FakeBucket.get_permission

    def is_action_permitted(statement: Any, *asked: Any, **named: Any) -> PermissionResult:
        if not _met(statement._statement.get("Condition", {})):
            return PermissionResult.NEUTRAL
        return ask_statement(statement, *asked, **named)

    def get_permission(bucket: Any, action: str, resource: str) -> Any:
        return ask_bucket(bucket, _PERMISSIONS.get(action, action), resource)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IAMPolicyStatement, "is_action_permitted", is_action_permitted)
        patch.setattr(FakeBucket, "get_permission", get_permission)
        yield


def _met(conditions: Mapping[str, Mapping[str, str | list[str]]]) -> bool:
    """Return whether the request meets all conditions: any value of a key, all keys, all operators."""
    if not conditions:
        return True
    facts = _facts(flask.request)
    return all(
        any(_OPERATORS[operator](facts[key], value) for value in ([values] if isinstance(values, str) else values))
        for operator, keys in conditions.items()
        for key, values in keys.items()
    )


def _facts(request: flask.Request) -> dict[str, str | None]:
    """Return the condition keys of the policies under test; another key or operator is a KeyError, not a pass."""
    in_upload = "uploadId" in request.args
    creates = (request.method == "PUT" and not in_upload) or (request.method == "POST" and in_upload)
    return {
        "aws:SecureTransport": str(request.is_secure).lower(),
        "s3:ObjectCreationOperation": str(creates).lower(),
        "s3:if-none-match": request.headers.get("If-None-Match"),
        "s3:prefix": request.args.get("prefix"),
    }
