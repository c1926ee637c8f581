"""Autotune results on their way between Inductor's folder and a manifest, where each is an inline payload."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from tritonsync.errors import FormatError
from tritonsync.local.autotune import AutotuneResult

__all__ = ["payloads_of_results", "results_of_payloads"]

log = logging.getLogger(__name__)


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
