"""Profiles of dynamic shapes (PGO): the newest one is read at the start, the last one published at the end."""

from __future__ import annotations

import base64
from typing import Any

from tritonsync.format.value import value_of_bundle
from tritonsync.local.inductor_cache import pgo_key
from tritonsync.plugins.edge import edge
from tritonsync.session import session

__all__ = ["pgo_cache_class"]


def pgo_cache_class(remote_cache: type) -> type:
    """Return a class that stands in for `RemoteDynamoPGOCache`; `remote_cache` is torch's `RemoteCache`."""

    class TritonsyncPGOCache(remote_cache):  # type: ignore[misc]
        """Reads the newest profile; keeps the last one for the end of the process."""

        def __init__(self) -> None:
            super().__init__(None, None)

        def _get(self, key: str, _sample: Any) -> Any:  # noqa: ANN401
            return _load_profile(key)

        def _put(self, key: str, value: Any, _sample: Any) -> None:  # noqa: ANN401
            _save_profile(key, value)

    return TritonsyncPGOCache


@edge(None)
def _load_profile(key: str) -> dict[str, str] | None:
    now = session.current()
    if now is None:
        return None
    for loaded in now.newest("pgo", pgo_key(key)).bundles:
        return {"data": base64.b64encode(value_of_bundle(loaded.bundle)).decode("ascii")}
    return None


@edge(None)
def _save_profile(key: str, value: dict[str, str]) -> None:
    now = session.current()
    if now is not None:
        now.enqueue_newest("pgo", pgo_key(key), base64.b64decode(value["data"]))
