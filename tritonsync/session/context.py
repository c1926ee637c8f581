"""What the parts of a session share: settings, the connection, the program's caches, counters, and waits."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

from tritonsync.errors import RemoteOffError, SettingsError
from tritonsync.format.kernel import Kernel
from tritonsync.format.manifest import Environment
from tritonsync.format.ranks import Rank
from tritonsync.local.cpu import host_cpu
from tritonsync.local.files import host_lock
from tritonsync.local.inductor_cache import default_inductor_dir
from tritonsync.local.triton_cache import default_triton_dir
from tritonsync.remote.bucket import Bucket
from tritonsync.remote.threads import daemon_threads
from tritonsync.remote.waiting import Deadline
from tritonsync.session.counters import Counters
from tritonsync.session.process import no_fork
from tritonsync.session.waits import Waits
from tritonsync.settings import Settings
from tritonsync.store import Store
from tritonsync.store.trust import signer_of, trust_of
from tritonsync.sync.caches import LocalCaches, check_caches
from tritonsync.sync.environment import host_environment, with_target

__all__ = ["Connection", "Context", "Host", "plain_host"]


@dataclasses.dataclass(frozen=True)
class Host:
    """What a session must know of the program it is in, and cannot know without torch or Triton.

    Asked whenever it matters: a program may change its caches while it runs.

    Attributes:
        caches: the folders that torch and Triton use.
        cpu: `machine:isa` of this host, as torch sees it.
        environment: for manifests.
        extern_libs_key: torch's key of the libdevice of this host; None where it has none (before 2.13).
        rank: of this process in its job; None where that is not known, and then no value of any rank is touched.
        has_custom_passes: whether torch has been given passes over graphs, which may embed the rank.
        switched_off: the setting by which torch looks into no cache; None where it does.
    """

    caches: Callable[[], LocalCaches]
    cpu: Callable[[], str]
    environment: Callable[[], Environment]
    extern_libs_key: Callable[[], str | None] = lambda: None
    rank: Callable[[], Rank | None] = lambda: None
    has_custom_passes: Callable[[], bool] = lambda: False
    switched_off: Callable[[], str | None] = lambda: None


def plain_host(settings: Settings) -> Host:
    """Return what holds for a program without torch."""
    inductor = default_inductor_dir(settings.inductor_dir)
    triton = default_triton_dir(settings.triton_dir)
    caches = LocalCaches(inductor, lambda _: triton, lambda _: triton)
    return Host(lambda: caches, lambda: host_cpu(settings.cpu_capability), host_environment)


class Connection:
    """The store of one process, opened in the background: reading keys, importing s3fs or gcsfs, connecting.

    `begin` returns at once; whoever needs the store waits for it with `store`.

    Args:
        settings: where the store is.
        first_request: called on the same background thread once there is a store. Forks wait for it.
        afterwards: called there next; forks do not wait.
    """

    def __init__(
        self, settings: Settings, first_request: Callable[[Store], None], afterwards: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._first_request = first_request
        self._afterwards = afterwards
        self._lock = threading.Lock()
        self._begun = False
        self._store: Future[Store] = Future()

    @property
    def is_made(self) -> bool:
        """Whether there is a store."""
        return self._store.done() and self._store.exception() is None

    def begin(self) -> None:
        """Connect on a daemon thread, unless that has begun already."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
        if not daemon_threads.start(self._run):
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
            self._first_request(store)
        self._afterwards()

    def _connect(self) -> Store:
        if self._settings.url is None:
            raise SettingsError("there is no bucket; set TRITONSYNC_URL", variable="TRITONSYNC_URL")
        bucket = Bucket(
            self._settings.url, storage_options=self._settings.storage_options, engine=self._settings.engine
        )
        return Store(bucket, signer=signer_of(self._settings), trust=trust_of(self._settings))


@dataclasses.dataclass(frozen=True)
class Context:
    """Given to every part of a session.

    Attributes:
        settings: what the user chose.
        connection: to the bucket.
        host: the caches of the program.
        counters: what is said at exit.
        waits: how long the program may wait for the bucket, and what becomes of failures.
    """

    settings: Settings
    connection: Connection
    host: Callable[[], Host]
    counters: Counters
    waits: Waits

    @contextlib.contextmanager
    def host_lock(self, folder: Path, name: str, deadline: Deadline) -> Iterator[None]:
        """Hold a lock among the processes of this host, or go on without it.

        A neighbour that is slow, or was stopped, is no trouble of the bucket's: the wait for it spends neither the
        deadline nor anything of what the program is ready to lose for the bucket.
        """
        began = time.monotonic()
        with host_lock(folder, name, timeout=deadline.left):
            waited = time.monotonic() - began
            deadline.extend(waited)
            self.waits.budget.excuse(waited)
            yield

    def reader(self, timeout: float | None) -> Store:
        """Wait for the store, at most so many seconds; it offers what this host can use.

        Raises:
            TritonSyncError, TimeoutError: see `Connection.store`.
        """
        store, host = self.connection.store(timeout), self.host()
        check_caches(host.caches())
        return store.on_host(cpu=host.cpu(), rank=host.rank())

    def writer(self, timeout: float | None, kernels: Iterable[Kernel] = ()) -> Store:
        """Wait for the store, at most so many seconds; what it publishes, such as these kernels, was made here and now.

        Raises:
            TritonSyncError, TimeoutError: see `Connection.store`.
        """
        store, host = self.connection.store(timeout), self.host()
        check_caches(host.caches())
        return store.on_host(cpu=host.cpu(), rank=host.rank(), environment=with_target(host.environment(), kernels))
