"""What the last watched run of this user said, kept in Inductor's folder, so that one can ask for it afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from tritonsync.errors import LocalCacheError
from tritonsync.local.files import LOCKS, disk_errors, make_own_folder, read_file, replace_file, temporary_path

__all__ = ["keep_report", "last_report", "read_report"]

_NAME = "last-run.json"

#: What a report says of each graph and kernel; see `Why` of sync/why.py.
_TEXTS = ("kind", "name", "state", "reason")
_TEXTS_OR_NULL = ("key", "bundle", "made")


def keep_report(inductor_dir: Path, report: Mapping[str, Any]) -> None:
    """Keep the report of a run, in place of the one before; nobody else may read it.

    Raises:
        UnsafeFolderError: others may write into the folder.
        LocalCacheError: it cannot be written.
    """
    folder = inductor_dir / LOCKS
    with disk_errors("keep the report of the run", folder / _NAME):
        make_own_folder(folder)
        replace_file(str(folder / _NAME), json.dumps(report).encode(), temporary_path(str(folder)), mode=0o600)


def last_report(inductor_dir: Path) -> dict[str, Any] | None:
    """Return the report of the last run; None: there is none.

    Raises:
        LocalCacheError: it cannot be read.
    """
    try:
        return read_report(inductor_dir / LOCKS / _NAME)
    except LocalCacheError as exc:
        if isinstance(exc.__cause__, (FileNotFoundError, NotADirectoryError)):
            return None
        raise


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
    if not _is_report(report):
        raise LocalCacheError(
            f"{path} is no report that says why; make one with: tritonsync run --report FILE -- CMD", path=str(path)
        )
    found: dict[str, Any] = report
    return found


def _is_report(report: Any) -> bool:  # noqa: ANN401 - what JSON holds
    return (
        isinstance(report, dict)
        and all(isinstance(report.get(name, ""), str) for name in ("command", "started"))
        and isinstance(report.get("engine"), (dict, NoneType))
        and isinstance(report.get("why"), list)
        and all(map(_is_why, report["why"]))
    )


def _is_why(entry: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in _TEXTS)
        and all(isinstance(entry.get(name, 0), (str, NoneType)) for name in _TEXTS_OR_NULL)
        and isinstance(entry.get("differences"), list)
        and all(map(_is_difference, entry["differences"]))
    )


def _is_difference(found: Any) -> bool:  # noqa: ANN401
    return (
        isinstance(found, dict)
        and isinstance(found.get("part"), str)
        and all(isinstance(found.get(name, 0), (str, NoneType)) for name in ("here", "there"))
    )
