"""The roles, tried by a program that compiles with tritonsync on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.terraform.account import Account, Identity
from tests.terraform.commands import python_as, report_of
from tests.terraform.conftest import Shared

pytest.importorskip("torch")
pytest.importorskip("s3fs")

PROGRAM = ("-m", "tests.terraform.compile_once")


@pytest.fixture(scope="module")
def writer(account: Account, shared: Shared) -> Identity:
    """Return somebody with the writer's policy."""
    return account.user("plugin-writer", shared.outputs["writer_policy_arn"])


@pytest.fixture(scope="module")
def reader(account: Account, shared: Shared) -> Identity:
    """Return somebody with the reader's policy."""
    return account.user("plugin-reader", shared.outputs["reader_policy_arn"])


@pytest.fixture(scope="module")
def published(shared: Shared, writer: Identity, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Run the program once as a writer, and return what the prefix then holds."""
    run = compile_as(writer, shared, tmp_path_factory.mktemp("writer"), TRITONSYNC_STRICT="1")
    assert run["fxgraph_cache_miss"] == 1
    return objects(writer, shared)


def compile_as(identity: Identity, shared: Shared, cache: Path, **variables: str) -> dict[str, int]:
    """Run the program with an empty cache of its own."""
    return report_of(
        python_as(
            identity,
            *PROGRAM,
            TORCHINDUCTOR_CACHE_DIR=str(cache),
            TRITONSYNC_URL=shared.outputs["url"],
            TRITONSYNC_QUIET="1",
            # Spares ten seconds of probing what the CPU can do.
            TORCHINDUCTOR_VEC_ISA_OK="1",
            # A busy machine must not look like a bucket that does not answer.
            TRITONSYNC_BUDGET_S="120",
            **variables,
        )
    )


def objects(identity: Identity, shared: Shared) -> set[str]:
    """Return the names of all objects below the prefix."""
    pages = (
        identity.client("s3").get_paginator("list_objects_v2").paginate(Bucket=shared.bucket, Prefix="teams/vision/")
    )
    return {found["Key"] for page in pages for found in page.get("Contents", [])}


@pytest.mark.slow
def test_reader_starts_warm_and_writes_nothing(
    shared: Shared, reader: Identity, published: set[str], tmp_path: Path
) -> None:
    """With the reader's rights a program finds the graph; that nobody told it that it may not write does no harm."""
    run = compile_as(reader, shared, tmp_path)
    assert run["fxgraph_cache_hit"] == 1
    assert "fxgraph_cache_miss" not in run
    assert objects(reader, shared) == published
