"""Cache folders of other libraries (`TRITONSYNC_BUNDLES`), while a program runs.

They are fetched in the background as soon as there is a connection, before the program gets to them, and published when
nothing has changed in them for some seconds: these libraries tell nobody when they write. What is new since is
published at the end. All processes of a host that share a folder may do so: what one has published, the next finds.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from tritonsync import times
from tritonsync.errors import FormatError, LocalCacheError, SettingsError, TritonSyncError
from tritonsync.format.bundle import FOLDER
from tritonsync.format.folder import LIST, FolderFile, bundle_of_folder, files_of_bundle, key_of, list_of_manifest
from tritonsync.local.folder_cache import Snapshot, snapshot
from tritonsync.local.identity import rank_of
from tritonsync.messages import warn_once
from tritonsync.remote.threads import in_parallel, start_thread
from tritonsync.remote.waiting import Deadline
from tritonsync.session.context import Context
from tritonsync.settings import environment
from tritonsync.store import Store
from tritonsync.sync.folders import Folder, preset_folder, pull_folder, push_folder

__all__ = ["Folders"]

log = logging.getLogger(__name__)

#: Folders fetched at a time.
AT_ONCE = 4


@dataclasses.dataclass
class _Watched:
    """A folder, what of it is in the bucket as far as is known, and what was there at the last look."""

    folder: Folder
    published: Snapshot
    seen: Snapshot
    pause_until: float = 0.0


class Folders:
    """Brings and publishes folders.

    Args:
        context: of the session.
        names: of their presets.
        submit: runs work on an upload thread.
    """

    def __init__(self, context: Context, names: Sequence[str], submit: Callable[[Callable[[], None]], None]) -> None:
        self._context, self._names, self._submit = context, names, submit
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._ended = threading.Event()

    @property
    def is_known(self) -> bool:
        """Whether there is a folder that could have something to publish."""
        return bool(self._watched)

    def begin(self) -> None:
        """Fetch the folders in the background, then watch them. Returns at once."""
        if self._names:
            start_thread(self._run)

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()

    def publish(self, store: Store) -> None:
        """Publish what is new in the folders; one that cannot be read is said, and left out.

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

    def newest(self, name: str, facts: Mapping[str, str]) -> Mapping[str, bytes]:
        """Look for files of a name and facts that lie in no folder of this host, within the program's budget.

        Returns:
            path and content; nothing where there are none, or where there is trouble of any kind.
        """

        def load() -> Mapping[str, bytes]:
            store = self._context.connection.store(waits.budget.left)
            found = store.load(FOLDER, key_of(name, facts), newest=1, timeout=waits.budget.left)
            for loaded in found.bundles:
                files = files_of_bundle(loaded.bundle, list_of_manifest(loaded.manifest))
                return {file.path: file.data for file in files}
            return {}

        waits = self._context.waits
        nothing: Mapping[str, bytes] = {}
        found = waits.wait_for(load, nothing, bool)
        self._context.counters.add(hits=int(bool(found)), misses=int(not found))
        return found

    def enqueue(self, name: str, facts: Mapping[str, str], files: Mapping[str, bytes]) -> None:
        """Publish such files in the background, in place of those that are there."""

        def work() -> None:
            bundle = bundle_of_folder(name, facts, [FolderFile(path, data) for path, data in files.items()])
            published = self._writer().publish_newest(bundle, inline=(LIST,), timeout=times.UPLOAD_S)
            self._context.counters.add(published=int(published.created))

        if not self._context.waits.is_off:
            self._submit(work)

    def _run(self) -> None:
        in_parallel(self._fetch, self._names, AT_ONCE)
        while self._context.settings.may_write and self._watched and not self._ended.wait(times.FOLDER_QUIET_S):
            with self._lock:
                for each in self._watched.values():
                    self._look(each)

    def _fetch(self, name: str) -> None:
        """Fetch one folder; whatever is in the way of it is said, and the program goes on without."""
        try:
            folder = preset_folder(name, environment())
            if folder.is_agreed and rank_of(environment()).world > 1:
                message = (
                    "bundle %s is left out of a job of several ranks, which must agree; pull it on every host first"
                )
                warn_once(log, f"agreed {name}", message, name)
                return
            before = snapshot(folder.place)
            locks = self._context.host().caches().inductor
            with self._context.host_lock(locks, f"{FOLDER}/{folder.key}", Deadline(times.BACKGROUND_S)):
                store = self._context.connection.store(times.BACKGROUND_S)
                pulled = pull_folder(store, folder, timeout=times.BACKGROUND_S)
            # What was there before may be new to the bucket.
            known = snapshot(folder.place) if pulled.files and not before else {}
        except (SettingsError, LocalCacheError, FormatError) as exc:
            warn_once(log, f"bundle {name}", "bundle %s is left out: %s", name, exc)
            return
        except Exception as exc:  # noqa: BLE001 - nobody waits for this thread
            self._context.waits.failed(exc)
            return
        if pulled.files:
            self._context.counters.add(hits=1)
        else:
            self._context.counters.add(misses=1)
            if pulled.nearest:
                log.warning("bundle %s: nothing for this host; nearest: %s", name, ", ".join(pulled.nearest))
        with self._lock:
            self._watched[name] = _Watched(folder, known, known)

    def _look(self, each: _Watched) -> None:
        """Publish a folder that has something new, and in which nothing has changed since the last look."""
        try:
            now = snapshot(each.folder.place)
            is_quiet, each.seen = now == each.seen, now
            if is_quiet and now != each.published and time.monotonic() >= each.pause_until:
                self._publish(each, now, self._writer())
        except TritonSyncError as exc:
            # Once is enough: it is tried again when something has changed, and at the end.
            each.published = each.seen
            self._say(each, exc)
        except Exception as exc:  # noqa: BLE001 - nobody waits for this thread
            self._context.waits.failed(exc)

    def _say(self, each: _Watched, exc: TritonSyncError) -> None:
        warn_once(log, f"publish {each.folder.name}", "bundle %s is not published: %s", each.folder.name, exc)

    def _publish(self, each: _Watched, now: Snapshot, store: Store) -> None:
        each.pause_until = time.monotonic() + times.FOLDER_PAUSE_S
        pushed = push_folder(store, each.folder, found=now, timeout=times.UPLOAD_S)
        each.published = now
        self._context.counters.add(published=int(pushed.created))

    def _writer(self) -> Store:
        store = self._context.connection.store(times.UPLOAD_S)
        return store.on_host(cpu=None, environment=self._context.host().environment())
