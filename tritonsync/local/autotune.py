"""Autotune results: `<cache>/<aa>/<64 hex digits>.best_config`, and which of them belong to a graph.

A result is a JSON object written by torch/_inductor/runtime/autotune_cache.py (2.11, 2.13, 2.15). Its name is a hash of
the kernel's generated .py, a tag and the version of torch; `<aa>` is the folder of that .py, characters 1 and 2 of its
name. In it, `triton_cache_hash` names the kernel that won, except where coordinate descent went on from there (null).
`configs_hash` is torch's own check that the result fits.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tritonsync.errors import FormatError
from tritonsync.format.facts import ValueFacts
from tritonsync.local.files import Written, disk_errors, is_link, read_file, write_hidden

__all__ = [
    "AutotuneResult",
    "autotune_results",
    "payloads_of_results",
    "results_of",
    "results_of_payloads",
    "write_autotune",
]

log = logging.getLogger(__name__)

_FOLDER = re.compile(r"[a-z2-7]{2}")
_NAME = re.compile(r"[0-9a-f]{64}\.best_config")


@dataclasses.dataclass(frozen=True)
class AutotuneResult:
    """One `.best_config` file.

    Attributes:
        folder: the two characters of its folder.
        name: its file name.
        data: its bytes; not shown in the repr.
    """

    folder: str
    name: str
    data: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if not _FOLDER.fullmatch(self.folder) or not _NAME.fullmatch(self.name):
            raise FormatError(f"{self.folder[:80]!r}/{self.name[:80]!r} is no place of an autotune result")

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The parsed result, or None where it is damaged."""
        try:
            config = json.loads(self.data)
        except (ValueError, RecursionError):
            return None
        return config if isinstance(config, dict) else None

    @property
    def kernel_hash(self) -> str | None:
        """The kernel that won, or None where the result does not name one."""
        named = (self.config or {}).get("triton_cache_hash")
        return named if isinstance(named, str) else None


def autotune_results(inductor_dir: Path) -> tuple[AutotuneResult, ...]:
    """Read all results in Inductor's cache folder; damaged ones, and those that may not be read, are left out.

    Raises:
        LocalCacheError: a folder cannot be listed.
    """
    found = []
    with disk_errors("read the autotune results in", inductor_dir):
        for folder in _names(inductor_dir, _FOLDER):
            for name in _names(inductor_dir / folder, _NAME):
                path = os.path.join(inductor_dir, folder, name)
                try:
                    found.append(AutotuneResult(folder, name, read_file(path)))
                except FileNotFoundError:
                    continue
                except OSError as exc:
                    log.warning("an autotune result is left out: cannot read %s: %s", path, exc.strerror or exc)
    return tuple(result for result in found if result.config is not None)


def _names(directory: Path, pattern: re.Pattern[str]) -> list[str]:
    try:
        return sorted(filter(pattern.fullmatch, os.listdir(directory)))
    except (FileNotFoundError, NotADirectoryError):
        return []


def results_of(results: Iterable[AutotuneResult], facts: ValueFacts) -> tuple[AutotuneResult, ...]:
    """Return those results that belong to a value.

    They name one of its kernels, or lie in the folder of one of its kernel sources. The second is a little too much
    where two sources share a folder; torch looks a result up by its full name, so that does no harm.
    """
    folders = {source[1:3] for source in facts.kernel_sources}
    return tuple(result for result in results if result.kernel_hash in facts.kernel_hashes or result.folder in folders)


def write_autotune(inductor_dir: Path, result: AutotuneResult) -> Written:
    """Write a result where torch looks for it; a readable one that is there stays, and so does a link.

    Raises:
        FormatError: the result is not a JSON object.
        LocalCacheError: the file cannot be written.
    """
    if result.config is None:
        raise FormatError(f"autotune result {result.folder}/{result.name} is not a JSON object")
    path = inductor_dir / result.folder / result.name
    with disk_errors("read", path):
        try:
            there = b"{}" if is_link(path) else read_file(os.fspath(path))
            damaged = AutotuneResult(result.folder, result.name, there).config is None
        except FileNotFoundError:
            damaged = False
    return write_hidden(inductor_dir, path, result.data, replace=damaged)


def payloads_of_results(results: Iterable[AutotuneResult]) -> dict[str, bytes]:
    """Name each result as a payload: folder and file name with a dot between, for a slash cannot be in a name."""
    return {f"{result.folder}.{result.name}": result.data for result in results}


def results_of_payloads(payloads: Mapping[str, bytes]) -> Iterator[AutotuneResult]:
    """Yield the results that payloads are; one that is none is left out with a warning."""
    for payload, data in payloads.items():
        folder, _, name = payload.partition(".")
        try:
            result = AutotuneResult(folder, name, data)
        except FormatError as exc:
            log.warning("left out of the cache: %s", exc)
            continue
        if result.config is None:
            log.warning("left out of the cache: autotune result %s is not a JSON object", payload)
            continue
        yield result
