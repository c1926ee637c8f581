"""Cache folders of other libraries (`TRITONSYNC_BUNDLES`): fetched at the start of a program, and watched.

They are published when nothing has changed in them for some seconds: these libraries tell nobody when they write. What
is new since is published at the end. All processes of a host that share a folder may do so: what one has published, the
next one finds.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Sequence

from tritonsync import times
from tritonsync.errors import FormatError, LocalCacheError, SettingsError, TritonSyncError
from tritonsync.format.bundle import FOLDER
from tritonsync.local.folder_cache import Snapshot, snapshot
from tritonsync.local.identity import rank_of
from tritonsync.messages import warn_once
from tritonsync.remote.threads import in_parallel
from tritonsync.remote.waiting import Deadline
from tritonsync.session.context import Context
from tritonsync.settings import environment
from tritonsync.store import Store
from tritonsync.sync.folders import Folder, PulledFolder, preset_folder, pull_folder, push_folder

__all__ = ["WatchedFolders"]

log = logging.getLogger(__name__)

#: Folders fetched at a time.
AT_ONCE = 4


@dataclasses.dataclass
class _Watched:
    """A folder, and what was there: as far as it is in the bucket, at the last look, and at a try that failed."""

    folder: Folder
    published: Snapshot
    seen: Snapshot
    failed: Snapshot | None = None
    pause_until: float = 0.0


class WatchedFolders:
    """The folders of one program. Whatever is in the way of one is said, and the program goes on without."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}

    @property
    def is_known(self) -> bool:
        """Whether there is a folder."""
        return bool(self._watched)

    def fetch(self, names: Sequence[str]) -> None:
        """Fetch the folders of these presets."""
        in_parallel(self._fetch, names, AT_ONCE)

    def watch(self, ended: threading.Event) -> None:
        """Publish what is new whenever a folder is quiet, until the end."""
        while self._context.settings.may_write and self._watched and not ended.wait(times.FOLDER_QUIET_S):
            with self._lock:
                for each in self._watched.values():
                    self._look(each)

    def publish(self, store: Store) -> None:
        """Publish what is new.

        Raises:
            RemoteError: the bucket could not be asked, or refused the write.
        """
        with self._lock:
            for each in self._watched.values():
                try:
                    now = snapshot(each.folder.place)
                    if now != each.published:
                        self._publish(each, now, store)
                except (LocalCacheError, FormatError) as exc:  # noqa: PERF203 - each may fail by itself
                    self._say(each, exc)

    def _fetch(self, name: str) -> None:
        try:
            folder = preset_folder(name, environment())
            if folder.is_agreed and rank_of(environment()).world > 1:
                warn_once(
                    log,
                    f"agreed {name}",
                    "bundle %s is left out of a job of several ranks, which must agree; pull it on every host first",
                    name,
                )
                return
            before = snapshot(folder.place)
            pulled = self._pull(folder)
            # What was there before may be new to the bucket.
            known = snapshot(folder.place) if pulled.files and not before else {}
        except (SettingsError, LocalCacheError, FormatError) as exc:
            warn_once(log, f"bundle {name}", "bundle %s is left out: %s", name, exc)
            return
        except Exception as exc:  # noqa: BLE001 - nobody waits for this thread
            self._context.waits.failed(exc)
            return
        if pulled.nearest:
            log.warning("bundle %s: nothing for this host; nearest: %s", name, ", ".join(pulled.nearest))
        with self._lock:
            self._watched[name] = _Watched(folder, known, known)
        self._context.counters.add(hits=int(pulled.files > 0), misses=int(not pulled.files))

    def _pull(self, folder: Folder) -> PulledFolder:
        locks = self._context.host().caches().inductor
        with self._context.host_lock(locks, f"{FOLDER}/{folder.key}", Deadline(times.BACKGROUND_S)):
            store = self._context.connection.store(times.BACKGROUND_S)
            return pull_folder(store, folder, timeout=times.BACKGROUND_S)

    def _look(self, each: _Watched) -> None:
        """Publish a folder that has something new, and in which nothing has changed since the last look."""
        try:
            now = snapshot(each.folder.place)
            is_quiet, each.seen = now == each.seen, now
            is_new = now not in (each.published, each.failed)
            if is_quiet and is_new and time.monotonic() >= each.pause_until:
                store = self._context.connection.store(times.UPLOAD_S)
                environment_now = self._context.host().environment()
                self._publish(each, now, store.on_host(cpu=None, environment=environment_now))
        except TritonSyncError as exc:
            each.failed = each.seen  # once is enough: it is tried again when something has changed, and at the end
            self._say(each, exc)
        except Exception as exc:  # noqa: BLE001 - nobody waits for this thread
            self._context.waits.failed(exc)

    def _publish(self, each: _Watched, now: Snapshot, store: Store) -> None:
        each.pause_until = time.monotonic() + times.FOLDER_PAUSE_S
        pushed = push_folder(store, each.folder, found=now, timeout=times.UPLOAD_S)
        each.published = now
        self._context.counters.add(published=int(pushed.created))

    def _say(self, each: _Watched, exc: TritonSyncError) -> None:
        warn_once(log, f"publish {each.folder.name}", "bundle %s is not published: %s", each.folder.name, exc)
