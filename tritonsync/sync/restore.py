"""From a bundle to the caches of this host: kernels first, then autotune results, then the value that asks for both."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

from tritonsync.format.bundle import Bundle
from tritonsync.format.value import has_value, value_of_bundle
from tritonsync.local import inductordir, tritondir
from tritonsync.local.autotune import write_autotune
from tritonsync.settings import Files
from tritonsync.sync.autotune import results_of_payloads
from tritonsync.sync.caches import LocalCaches

__all__ = ["Restored", "restore"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
    """What came of one bundle.

    Attributes:
        value: the value, byte for byte as torch made it; None where the bundle has none, or it may not be used here.
        emitted: kernels written or repaired.
        present: kernels that were there already.
        conflicts: hashes of kernels whose folder holds another writer's build, or one that is being made right now.
    """

    value: bytes | None
    emitted: int
    present: int
    conflicts: tuple[str, ...]


def restore(
    bundle: Bundle, caches: LocalCaches, *, autotune: Mapping[str, bytes] | None = None, files: Files = "all"
) -> Restored:
    """Write a bundle into the caches of this host.

    A value with a kernel in conflict is not written: its static autotuners carry the launch facts of their own binary
    (shared memory, warps), which must not meet another one.

    Args:
        bundle: checked against its manifest.
        caches: where to.
        autotune: the results that lie under the value's key: payload name to content.
        files: which files of a kernel folder to write.

    Raises:
        LocalCacheError: a folder cannot be written.
        FormatError: the bundle does not make up its value, or holds half a kernel.
    """
    emitted, present, conflicts = 0, 0, []
    for kernel in bundle.kernels:
        folder = caches.folder_of(kernel, bundle.kind)
        outcome = tritondir.emit(kernel, folder, files=files).outcome
        if outcome == "lost_race":
            # What the winner wrote may be another build; the second look tells.
            outcome = tritondir.emit(kernel, folder, files=files).outcome
        if outcome in ("emitted", "repaired"):
            emitted += 1
        elif outcome in ("conflict", "busy", "lost_race"):
            conflicts.append(kernel.hash)
            log.info("kernel %s of %s/%s: %s on this host", kernel.hash, bundle.kind, bundle.key, outcome)
        else:
            present += 1
    value = None
    if has_value(bundle) and not conflicts:
        value = value_of_bundle(bundle)
        for result in results_of_payloads(autotune or {}):
            write_autotune(caches.inductor, result)
        inductordir.write_value(caches.inductor, bundle.kind, bundle.key, value)
    return Restored(value, emitted, present, tuple(conflicts))
