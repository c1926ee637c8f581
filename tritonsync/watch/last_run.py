"""What the last watched run of this user said, kept in Inductor's folder, so that one can ask for it afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsync.errors import LocalCacheError
from tritonsync.local.files import LOCKS, disk_errors, make_own_folder, read_file, replace_file, temporary_path

__all__ = ["keep_report", "last_report", "read_report"]

_NAME = "last-run.json"


def keep_report(inductor_dir: Path, report: Mapping[str, Any]) -> None:
    """Keep the report of a run, in place of the one before.

    Raises:
        UnsafeFolderError: others may write into the folder.
        LocalCacheError: it cannot be written.
    """
    folder = inductor_dir / LOCKS
    with disk_errors("keep the report of the run", folder / _NAME):
        make_own_folder(folder)
        replace_file(str(folder / _NAME), json.dumps(report).encode(), temporary_path(str(folder)))


def last_report(inductor_dir: Path) -> dict[str, Any] | None:
    """Return the report of the last run; None: there is none.

    Raises:
        LocalCacheError: it cannot be read.
    """
    path = inductor_dir / LOCKS / _NAME
    return read_report(path) if path.is_file() else None


def read_report(path: Path) -> dict[str, Any]:
    """Return a report that `tritonsync run` has written.

    Raises:
        LocalCacheError: it is not there, or is none.
    """
    with disk_errors("read the report", path):
        data = read_file(str(path))
    try:
        report = json.loads(data)
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or not isinstance(report.get("why"), list):
        raise LocalCacheError(
            f"{path} is no report that says why; make one with: tritonsync run --report FILE -- CMD", path=str(path)
        )
    return report
