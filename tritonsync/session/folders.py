"""Files of other libraries, while a program runs: cache folders (`TRITONSYNC_BUNDLES`), and files that lie in none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tritonsync import times
from tritonsync.format.bundle import FOLDER
from tritonsync.format.folder import LIST, FolderFile, bundle_of_folder, files_of_bundle, key_of, list_of_manifest
from tritonsync.remote.threads import start_thread
from tritonsync.session.context import Context
from tritonsync.session.process import no_fork
from tritonsync.store import Store

if TYPE_CHECKING:
    from tritonsync.session.watched import WatchedFolders

__all__ = ["Folders"]


class Folders:
    """Brings and publishes folders and files.

    Args:
        context: of the session.
        names: of the presets of folders.
        submit: runs work on an upload thread.
    """

    def __init__(self, context: Context, names: Sequence[str], submit: Callable[[Callable[[], None]], None]) -> None:
        self._context, self._names, self._submit = context, names, submit
        self._watched: WatchedFolders | None = None
        self._ended = threading.Event()

    @property
    def is_known(self) -> bool:
        """Whether there is a folder that could have something to publish."""
        return self._watched is not None and self._watched.is_known

    def begin(self) -> None:
        """Fetch the folders in the background, then watch them. Returns at once."""
        if self._names:
            start_thread(self._run)

    def end(self) -> None:
        """Watch no longer."""
        self._ended.set()

    def publish(self, store: Store) -> None:
        """Publish what is new in the folders.

        Raises:
            RemoteError: the bucket could not be asked, or refused the write.
        """
        if self._watched is not None:
            self._watched.publish(store)

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
            store = self._context.connection.store(times.UPLOAD_S)
            store = store.on_host(cpu=None, environment=self._context.host().environment())
            published = store.publish_newest(bundle, inline=(LIST,), timeout=times.UPLOAD_S)
            self._context.counters.add(published=int(published.created))

        if not self._context.waits.is_off:
            self._submit(work)

    def _run(self) -> None:
        with no_fork():
            # Imported here: only those who name a folder need what it takes to know one.
            from tritonsync.session.watched import WatchedFolders

            self._watched = WatchedFolders(self._context)
        self._watched.fetch(self._names)
        self._watched.watch(self._ended)
