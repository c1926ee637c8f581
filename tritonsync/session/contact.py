"""First contact with the bucket, made in the background: reading keys, importing s3fs or gcsfs, connecting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from tritonsync.errors import RemoteOffError, SettingsError
from tritonsync.remote.bucket import Bucket
from tritonsync.remote.crew import crew
from tritonsync.session.forkgate import no_fork
from tritonsync.settings import Settings
from tritonsync.store import Store
from tritonsync.store.keys import signer_of, trust_of

__all__ = ["Contact"]


class Contact:
    """The store of one process. `begin` returns at once; whoever needs the store waits for it with `store`.

    Args:
        settings: where the store is.
        greet: called on the same background thread once there is a store, to make the first request. Forks wait.
        go_on: called there afterwards.
    """

    def __init__(self, settings: Settings, greet: Callable[[Store], None], go_on: Callable[[], None]) -> None:
        self._settings = settings
        self._greet = greet
        self._go_on = go_on
        self._lock = threading.Lock()
        self._begun = False
        self._store: Future[Store] = Future()

    @property
    def is_made(self) -> bool:
        """Whether there is a store."""
        return self._store.done() and self._store.exception() is None

    def begin(self) -> None:
        """Make contact on a daemon thread, unless that has begun already."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
        if not crew.start(self._run):
            self._store.set_exception(RemoteOffError("the bucket was not asked: the program had ended"))

    def store(self, timeout: float | None = None) -> Store:
        """Wait for the store, at most so many seconds.

        Raises:
            SettingsError, MissingExtraError: there cannot be one.
            RemoteOffError: the program had ended before anybody asked.
            TimeoutError: it takes longer (`concurrent.futures.TimeoutError`).
        """
        self.begin()
        return self._store.result(timeout)

    def _run(self) -> None:
        # The first request imports as well: what a client needs is loaded when it is made.
        with no_fork():
            try:
                store = self._connect()
            except BaseException as exc:  # noqa: BLE001 - raised where the store is asked for
                self._store.set_exception(exc)
                return
            self._store.set_result(store)
            self._greet(store)
        self._go_on()

    def _connect(self) -> Store:
        if self._settings.url is None:
            raise SettingsError("there is no bucket; set TRITONSYNC_URL")
        bucket = Bucket(self._settings.url, storage_options=self._settings.storage_options)
        return Store(bucket, signer=signer_of(self._settings), trust=trust_of(self._settings))
