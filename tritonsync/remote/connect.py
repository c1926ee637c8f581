"""Which backend serves an address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tritonsync.remote.backend import Backend, Folder, ObjectStore
from tritonsync.remote.engine import Engine
from tritonsync.remote.filesystem import build
from tritonsync.remote.url import Address
from tritonsync.remote.waiting import RetryPolicy

__all__ = ["connect"]


def connect(address: Address, options: Mapping[str, Any], patience: RetryPolicy, engine: Engine) -> Backend:
    """Make the client of this address; it may block."""
    if engine.name != "obstore":
        return _over_fsspec(address, options, patience)
    from tritonsync.remote.obstore_backend import ObstoreBackend

    return ObstoreBackend(engine, address, patience, lambda: _over_fsspec(address, options, patience))


def _over_fsspec(address: Address, options: Mapping[str, Any], patience: RetryPolicy) -> Backend:
    kind: Callable[[Any, Address], Backend] = Backend
    if address.is_s3 or address.is_gcs:
        kind = ObjectStore
    elif address.is_folder:
        kind = Folder
    return kind(build(address, options, patience), address)
