"""Helion's autotuned configurations in the bucket: the backend of its remote cache.

::

    export HELION_AUTOTUNE_CACHE=RemoteAutotuneCache
    export HELION_REMOTE_CACHE_BACKEND=tritonsync.plugins.helion.TritonSyncBackend

Helion (1.5.1, helion/autotuner/remote_cache.py) makes one object of the class, and asks it with the sha256 of its own
key, which holds the kernel's source, its arguments and the GPU. Its usual key does not hold the versions of Helion,
Triton and torch, so what the preset `helion` asks of a folder is asked of each configuration too. A job of several
ranks is not served: where one rank has a configuration and another one measures, kernels that wait for each other may
wait for ever. Nothing is raised: it is then as if the bucket had nothing.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping

from tritonsync.local.identity import rank_of
from tritonsync.local.presets import PRESETS, facts_of
from tritonsync.messages import warn_once
from tritonsync.plugins.edge import edge
from tritonsync.session import session
from tritonsync.settings import environment

try:
    from helion.autotuner.remote_cache import RemoteCacheBackend as _Base
except ImportError:  # nothing asks then
    _Base = object

__all__ = ["TritonSyncBackend"]

log = logging.getLogger(__name__)

#: Its bundles are named so: one configuration each, in no folder.
NAME = "helion-config"


class TritonSyncBackend(_Base):  # type: ignore[misc]
    """Reads and writes configurations, each a JSON text under a key of 64 hex digits."""

    def get(self, key: str) -> str | None:
        """Return the configuration of a key, None if there is none."""
        return _get(key)

    def put(self, key: str, data: str) -> None:
        """Publish the configuration of a key, in the background."""
        _put(key, data)


@edge(None)
def _get(key: str) -> str | None:
    now = _session()
    if now is None:
        return None
    for data in now.folders.newest(NAME, _facts(key)).values():
        text = data.decode()
        # Helion does not expect to meet anything else, and would fail there.
        if isinstance(json.loads(text).get("config"), str):
            return text
    return None


@edge(None)
def _put(key: str, data: str) -> None:
    now = _session()
    if now is not None and now.settings.may_write:
        now.folders.enqueue(NAME, _facts(key), {f"{key}.best_config": data.encode()})


def _session() -> session.Session | None:
    if rank_of(environment()).world > 1:
        warn_once(
            log, "helion ranks", "Helion's configurations are left out of a job of several ranks, which must agree"
        )
        return None
    return session.current()


def _facts(key: str) -> Mapping[str, str]:
    return {**_host_facts(), "key": key}


@functools.cache
def _host_facts() -> Mapping[str, str]:
    return facts_of(PRESETS["helion"], environment())
