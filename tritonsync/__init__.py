"""tritonsync: a remote cache for compiled Triton kernels, in your own bucket.

`import tritonsync` is cheap: public names are loaded when they are first used, so that a program which only carries
tritonsync along pays nothing for torch, triton, fsspec or a terminal library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritonsync.bundler import TritonBundler
    from tritonsync.errors import TritonSyncError
    from tritonsync.plugins.autoload import install, uninstall
    from tritonsync.settings import Settings
    from tritonsync.store import Store

__version__ = "0.1.0"

__all__ = ["Settings", "Store", "TritonBundler", "TritonSyncError", "__version__", "install", "uninstall"]

_HOMES = {
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
