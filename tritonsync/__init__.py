"""tritonsync: a remote cache for compiled Triton kernels, in your own bucket.

`import tritonsync` is cheap: public names are loaded when they are first used, so that a program which only carries
tritonsync along pays nothing for torch, triton, fsspec or a terminal library.

Imports: _version; the rest by name, when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tritonsync._version import __version__

if TYPE_CHECKING:
    from tritonsync.bundler import TritonBundler
    from tritonsync.errors import TritonSyncError
    from tritonsync.plugins.autoload import install, uninstall
    from tritonsync.remote.bucket import Bucket
    from tritonsync.settings import Settings
    from tritonsync.store import Store

__all__ = ["Bucket", "Settings", "Store", "TritonBundler", "TritonSyncError", "__version__", "install", "uninstall"]

_HOMES = {
    "Bucket": "tritonsync.remote.bucket",
    "Settings": "tritonsync.settings",
    "Store": "tritonsync.store",
    "TritonBundler": "tritonsync.bundler",
    "TritonSyncError": "tritonsync.errors",
    "install": "tritonsync.plugins.autoload",
    "uninstall": "tritonsync.plugins.autoload",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the named module holds
    if name not in _HOMES:
        msg = f"module 'tritonsync' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
