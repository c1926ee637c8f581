"""Triton: a cache manager that asks the bucket for what this host lacks. The only file that imports Triton.

In a program with torch it is chosen in-process, unless the user has chosen another one (`install`). Elsewhere::

    TRITONSYNC_URL=... TRITON_CACHE_MANAGER=tritonsync.plugins.triton:TritonSyncCacheManager

The layout of the cache is that of Triton's FileCacheManager (triton/runtime/cache.py, 3.6 and 3.9), and what Triton
makes is written by it: a folder that came from the bucket is a hit without tritonsync as well. While that is off, the
manager is FileCacheManager and nothing else.

Timings of `@triton.autotune` reach a cache manager only where Triton keeps them at all: with `cache_results=True`, or
with TRITON_CACHE_AUTOTUNING=1 in the environment (triton/runtime/autotuner.py, 3.6 and 3.9). Without either, the tuned
kernels come from the bucket and are timed anew in every process.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

from triton import __version__ as triton_version
from triton import knobs
from triton.runtime.cache import FileCacheManager

from tritonsync.messages import warn_once

__all__ = ["TritonSyncCacheManager", "install", "remove"]

log = logging.getLogger(__name__)


class TritonSyncCacheManager(FileCacheManager):  # type: ignore[misc]
    """One folder of Triton's cache. Triton makes a manager for every kernel it looks up, and for every one it builds.

    What is to be had neither here nor in the bucket is None, and Triton compiles it. So is what is damaged here: Triton
    itself would raise, or launch what is left of it.
    """

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        super().__init__(key, override, dump)
        # Folders that a user dumps to or overrides from are no cache.
        self._is_cache = not (override or dump)
        self._missed_at: float | None = None

    def get_group(self, filename: str) -> dict[str, str] | None:
        """Return names and paths of a kernel's files."""
        kernels = None if knobs.compilation.always_compile else self._kernels()
        if kernels is None:
            return super().get_group(filename)  # type: ignore[no-any-return]
        group = self._local_group(kernels, filename)
        if group is None and kernels.fetch(self.key, filename, self.cache_dir):
            group = self._local_group(kernels, filename)
        self._note(kernels, filename, group)
        return group

    def put_group(self, filename: str, group: dict[str, str]) -> str:
        """Finish a kernel: now it may be used, and published."""
        path: str = super().put_group(filename, group)
        kernels = self._kernels()
        if kernels is not None:
            kernels.made(self.key, filename, self.cache_dir, self._seconds())
        return path

    def get_file(self, filename: str) -> str | None:
        """Return the path of a helper module, or of an autotuner's timings; kernels are looked up as groups."""
        kernels = self._kernels()
        if kernels is None or not kernels.is_single(filename):
            return super().get_file(filename)  # type: ignore[no-any-return]
        path = self._local_file(kernels, filename)
        if path is None and kernels.fetch(self.key, filename, self.cache_dir):
            path = self._local_file(kernels, filename)
        self._note(kernels, filename, path)
        return path

    def put(self, data: Any, filename: str, binary: bool = True) -> str:  # noqa: ANN401 - bytes, text, an MLIR module
        """Write a file; a helper module, or an autotuner's timings, may now be used, and published."""
        path: str = super().put(data, filename, binary)
        kernels = self._kernels()
        if kernels is not None and kernels.is_single(filename):
            kernels.made(self.key, filename, self.cache_dir, self._seconds())
        return path

    def _kernels(self) -> Any:  # noqa: ANN401 - the module, which must not be imported while tritonsync is off
        return _kernels() if self._is_cache else None

    def _local_group(self, kernels: Any, filename: str) -> dict[str, str] | None:  # noqa: ANN401
        try:
            group = super().get_group(filename)
        except Exception:  # over a damaged group Triton 3.6 stumbles in several ways
            log.info("%s cannot be read", self.cache_dir, exc_info=True)
            return None
        return group if group and kernels.is_usable(self.cache_dir, filename, group) else None

    def _local_file(self, kernels: Any, filename: str) -> str | None:  # noqa: ANN401
        path: str | None = super().get_file(filename)
        return path if path is not None and kernels.is_whole(path) else None

    def _note(self, kernels: Any, filename: str, found: object) -> None:  # noqa: ANN401
        if found is None:
            self._missed_at = time.perf_counter()
        else:
            kernels.used(self.key, filename, self.cache_dir)

    def _seconds(self) -> float:
        """Return how long it took to make what is written now."""
        return 0.0 if self._missed_at is None else time.perf_counter() - self._missed_at


def _kernels() -> Any:  # noqa: ANN401
    """Return the module that talks to the session; None while there is no session, or it is off."""
    session = sys.modules.get("tritonsync.session.session")
    try:
        if session is None or session.current() is None:
            return None
        from tritonsync.plugins import triton_kernels
    except Exception as exc:  # noqa: BLE001 - it would leave through the compile that needs the kernel
        warn_once(log, "triton", "stays out of Triton: %r", exc)
        return None
    return triton_kernels


def install(_module: object = None) -> None:
    """Make it Triton's cache manager in this process, and in those forked from it, unless the user has chosen one."""
    from tritonsync.plugins import triton_kernels

    if knobs.cache.manager_class is None:
        knobs.cache.manager_class = TritonSyncCacheManager
    if knobs.cache.manager_class is TritonSyncCacheManager:
        triton_kernels.install(cache_dir=lambda: Path(knobs.cache.dir), triton=triton_version)


def remove() -> None:
    """Give the choice of the cache manager back to the environment."""
    if knobs.cache.manager_class is TritonSyncCacheManager:
        del knobs.cache.manager_class


# In a program without torch, Triton has just imported this for its first kernel, and nobody else activates anything.
if "tritonsync.plugins.autoload" not in sys.modules:
    from tritonsync.plugins import autoload

    autoload.activate()
