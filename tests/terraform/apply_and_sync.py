"""From an empty account to a warm cache: apply the AWS example, then push, verify and pull with its outputs.

`python -m tests.terraform.apply_and_sync INDUCTOR_CACHE_FOLDER` does all of it, against a server on loopback.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.terraform.account import Account, open_account
from tests.terraform.commands import report_of, tritonsync_as
from tests.terraform.program import Terraform, copy_source

__all__ = ["BUCKET", "apply", "sync"]

BUCKET = "example-kernels"


def apply(account: Account, folder: Path) -> tuple[Terraform, dict[str, Any]]:
    """Apply the example, and return its outputs. 55 of its 60 s are the provider's own wait for lifecycle rules."""
    terraform = Terraform(copy_source(folder) / "examples" / "aws", account.owner.environ)
    terraform.init()
    return terraform, terraform.apply(bucket_name=BUCKET)


def sync(account: Account, outputs: dict[str, Any], cache: Path, restored: Path) -> dict[str, dict[str, Any]]:
    """Push a cache folder as a writer, verify it and pull it as a reader; return the commands' reports."""
    writer = account.user("sync-writer", outputs["writer_policy_arn"])
    reader = account.user("sync-reader", outputs["reader_policy_arn"])
    url = ("--url", outputs["url"], "--json")
    push = tritonsync_as(writer, "push", *url, "--workload", "example", "--inductor-dir", cache)
    reports = {"push": report_of(push)}
    reports["verify"] = report_of(tritonsync_as(reader, "verify", *url))
    pull = tritonsync_as(reader, "pull", *url, "--workload", "example", "--inductor-dir", restored)
    reports["pull"] = report_of(pull)
    return reports


def main() -> None:
    """Do all of it in a folder that is removed again."""
    cache = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name, open_account(Path(name)) as account:
        _, outputs = apply(account, Path(name))
        for command, report in sync(account, outputs, cache, Path(name) / "restored").items():
            sys.stdout.write(f"{command}: {report}\n")


if __name__ == "__main__":
    main()
