"""Inductor's other two caches: autotune results, which lie at paths that values carry with them, and PGO profiles."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any

from tritonsync.format.value import value_of_bundle
from tritonsync.local.inductordir import pgo_key
from tritonsync.plugins.edge import edge
from tritonsync.session import session

__all__ = ["autotune_get", "autotune_put", "pgo_cache_class"]


def autotune_get(cache_dir: Callable[[], str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make `LocalAutotuneCache._get` look into this process's own folder; what cannot be read is a miss.

    Static autotuners are pickled with the absolute path of the writer's folder, which the reader may not even be
    allowed to enter.
    """

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _get(cache: Any, key: str, sample: Any) -> Any:  # noqa: ANN401
            try:
                return original(cache, _inside(cache_dir, key), sample)
            except OSError:
                return None

        return _get

    return make


def autotune_put(cache_dir: Callable[[], str]) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make `LocalAutotuneCache._put` write into this process's own folder; what cannot be written is left out."""

    def make(original: Callable[..., Any]) -> Callable[..., None]:
        def _put(cache: Any, key: str, value: Any, sample: Any) -> None:  # noqa: ANN401
            path = _inside(cache_dir, key)
            try:
                original(cache, path, value, sample)
            except OSError:
                return
            _saved(path)

        return _put

    return make


@edge(None)
def _saved(path: str) -> None:
    """Note that this process has found out which configuration is the best."""
    now = session.current()
    if now is not None:
        folder, name = os.path.split(path)
        now.outgoing.note_tuned(os.path.basename(folder), name)  # noqa: PTH119


def _inside(cache_dir: Callable[[], str], key: str) -> str:
    return _moved(cache_dir, key) or key


@edge(None)
def _moved(cache_dir: Callable[[], str], key: str) -> str | None:
    """Return `<cache>/<aa>/<sha>.best_config` for one that lies elsewhere."""
    folder, name = os.path.split(key)
    base = cache_dir()
    if not name.endswith(".best_config") or os.path.dirname(folder) == base:  # noqa: PTH120
        return None
    return os.path.join(base, os.path.basename(folder), name)  # noqa: PTH118, PTH119


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
    for loaded in now.lookup("pgo", pgo_key(key), newest=1).bundles:
        now.note_used("pgo", pgo_key(key), loaded.manifest.variant)
        return {"data": base64.b64encode(value_of_bundle(loaded.bundle)).decode("ascii")}
    return None


@edge(None)
def _save_profile(key: str, value: dict[str, str]) -> None:
    now = session.current()
    if now is not None:
        now.publish_newest("pgo", pgo_key(key), base64.b64decode(value["data"]))
