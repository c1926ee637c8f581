"""From the caches of this host to bundles: a value, with every kernel it needs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator

from tritonsync.errors import FormatError, LocalCacheError
from tritonsync.format.bundle import Bundle
from tritonsync.format.facts import ValueFacts
from tritonsync.format.kernel import Kernel
from tritonsync.format.value import bundle_of_value
from tritonsync.local import tritondir
from tritonsync.sync.caches import LocalCaches

__all__ = ["gather"]

log = logging.getLogger(__name__)

#: Device folders looked into for the kernels of a value that does not say where it was compiled.
_ANY_DEVICE = (None, *range(16))


def gather(kind: str, key: str, value: bytes, facts: ValueFacts, caches: LocalCaches, *, cpu: str | None) -> Bundle:
    """Make the bundle of a value of `FxGraphCache` or `AOTAutogradCache`, with the kernels it names and does not hold.

    torch 2.13 and 2.15 leave the losers of autotuning out of the value while its static autotuners still name them,
    and drop the whole autotuner when one is missing (pytorch 194918); so every kernel that they name is added from the
    local folder.
    """
    held = bundle_of_value(kind, key, value, cpu=cpu, facts=facts)
    missing = set(facts.static_kernels) - {kernel.hash for kernel in held.kernels}
    if not missing:
        return held
    devices = {kernel.device for kernel in held.kernels} or _ANY_DEVICE
    return dataclasses.replace(held, kernels=(*held.kernels, *_collect(sorted(missing), devices, caches)))


def _collect(names: Iterable[str], devices: Iterable[int | None], caches: LocalCaches) -> Iterator[Kernel]:
    for device in devices:
        for name in names:
            try:
                kernel = tritondir.collect(caches.graph_kernels(device) / name, device)
            except (LocalCacheError, FormatError) as exc:
                log.warning("kernel %s is left out: %s", name, exc)
                continue
            if kernel is not None:
                yield kernel
