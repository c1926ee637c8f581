"""The bucket: six verbs over whatever fsspec can open.

A miss is a value, not an error. Every verb ends within its deadline, is repeated where that may help, and raises
nothing but the errors below; foreign ones are their causes. Who reads says how many bytes the object may have: the
other side does not choose how much memory is spent.

::

    get(name, limit)            bytes, or None for a missing object
    get_many(limits)            the same in parallel; errors are values there
    create(name, data)          True: created, False: exists already
    list(prefix)                all objects below a prefix
    delete(name)
    probe()                     "read-write" or "read-only"; creates the bucket's format object

    AccessDeniedError           403, 401, no credentials                      never repeated; expired ones are read anew
    BucketNotFoundError         there is no such bucket                       never repeated
    RemoteTimeoutError          no answer in time                             repeated
    RemoteError                 5xx, 429, 409, lost connections: repeated;    other answers: not
    RemoteOffError              not asked: no time left, or too many calls failed in a row
    UnfitObjectError            more bytes than allowed, or no regular file   never repeated
    SettingsError, MissingExtraError, HostileNameError                        what was asked cannot work
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, TypeVar

from tritonsync.errors import (
    AccessDeniedError,
    FormatError,
    HostileNameError,
    RemoteError,
    RemoteOffError,
    TritonSyncError,
    UnfitObjectError,
)
from tritonsync.format.layout import FORMAT_CONTENT, FORMAT_OBJECT, MAX_FORMAT_BYTES, check_format
from tritonsync.remote.backend import Backend, modified, over_fsspec
from tritonsync.remote.engine import Engine, choose
from tritonsync.remote.filesystem import MAX_CONNECTIONS
from tritonsync.remote.stats import BucketStats, Counter
from tritonsync.remote.threads import forget_after_fork, in_parallel, start_thread
from tritonsync.remote.translate import Attempts, Failure, exists_already, is_missing, refuses_conditions
from tritonsync.remote.url import parse_url
from tritonsync.remote.waiting import Breaker, Deadline, RetryPolicy
from tritonsync.settings import EngineChoice, environment, from_variable

__all__ = ["Access", "Answer", "Bucket", "BucketStats", "ObjectInfo"]

logger = logging.getLogger(__name__)

Access = Literal["read-write", "read-only"]
#: What `get_many` says of one object: its bytes, None for a missing one, or why there are none.
Answer = bytes | RemoteError | UnfitObjectError | None
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ObjectInfo:
    """What a listing says about an object: its size in bytes, and when it was written (seconds since 1970) if known."""

    size: int
    modified: float | None


class Bucket:
    """The objects below one URL.

    Nothing is opened before the first verb. Safe to use from many threads, and in forked children: each process
    builds its own filesystem. `timeout` is the number of seconds that a verb may take with all its repetitions; None
    stands for `patience.deadline`. With no time left (`timeout=budget.left` of a spent budget) a verb raises
    RemoteOffError and asks nobody.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix`, a folder, or any URL that fsspec knows and can write.
        storage_options: passed to the fsspec filesystem; they win over our own timeouts.
        patience: how long and how often to try.
        engine: which client; None: as TRITONSYNC_ENGINE says. See `engine.py`.

    Raises:
        SettingsError: the URL cannot be used, or the variable holds no engine.
    """

    def __init__(
        self,
        url: str,
        *,
        storage_options: Mapping[str, Any] | None = None,
        patience: RetryPolicy | None = None,
        engine: EngineChoice | None = None,
    ) -> None:
        self._address = parse_url(url)
        self._options = dict(storage_options or {})
        self._policy = patience or RetryPolicy()
        self._wanted: EngineChoice = engine or from_variable("engine") or "auto"
        self._breaker = Breaker(self._policy.breaker_failures, self._policy.breaker_pause)
        self._counter = Counter()
        # By process id. A parent's entry stays in a forked child: collecting it there would close the parent's
        # connections through an event loop that does not run.
        self._backends: dict[int, Future[Backend]] = {}
        self._conditions = True
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Forget what other threads of the parent were doing."""
        self._lock = threading.Lock()
        self._listed_ahead: dict[str, Future[dict[str, ObjectInfo]]] = {}

    def __repr__(self) -> str:
        return f"Bucket({self.url!r})"

    @property
    def url(self) -> str:
        """The URL in one spelling, without a slash at the end."""
        return self._address.show("")

    @property
    def engine(self) -> Engine:
        """The client that this process would take now, and why.

        Raises:
            MissingExtraError, SettingsError: there is none for these settings.
        """
        return choose(self._address, self._options, self._wanted, environment())

    @property
    def is_yet_to_be_made(self) -> bool:
        """Whether it is a folder that is not there: the first write makes it."""
        return self._address.is_folder and not Path(self._address.url).exists()

    @property
    def stats(self) -> BucketStats:
        """What this process has asked for so far."""
        return self._counter.now

    def get(self, name: str, *, limit: int, timeout: float | None = None) -> bytes | None:
        """Return the object's bytes, None if there is none. One request.

        On GCS and on plain filesystems a missing bucket looks like a missing object here; `list` and `probe` tell.

        Args:
            name: of the object.
            limit: bytes that it may have, from what is known of it: a promise that was verified, a listing, or a
                constant. Of a larger one no more than one byte above is read.
            timeout: seconds.

        Raises:
            UnfitObjectError: it is larger, or no regular file.
        """

        def attempt(backend: Backend, left: float) -> bytes | None:
            try:
                return backend.read(name, limit + 1, self._policy.part(left))
            except FileNotFoundError as exc:
                if is_missing(exc, self._address):
                    return None
                raise

        data = self._try("read", self._address.check(name), attempt, timeout)
        if data is not None:
            self._counter.add(bytes_down=len(data), objects_read=1)
            if len(data) > limit:
                raise UnfitObjectError(
                    f"{self._address.show(name)} has more than the {limit} bytes that it may have",
                    url=self.url,
                    object_name=name,
                )
        return data

    def get_many(self, limits: Mapping[str, int], *, timeout: float | None = None) -> dict[str, Answer]:
        """Return several objects, fetched in parallel: bytes, None for a missing one, the error for a failed one.

        Args:
            limits: names, and how many bytes each may have; see `get`.
            timeout: seconds for all of them together; what is not begun by then is a RemoteOffError.
        """
        deadline = Deadline(timeout)

        def one(name: str) -> Answer:
            try:
                return self.get(name, limit=limits[name], timeout=deadline.left)
            except (RemoteError, UnfitObjectError) as exc:
                return exc

        return in_parallel(one, [self._address.check(name) for name in limits], MAX_CONNECTIONS)

    def create(self, name: str, data: bytes, *, timeout: float | None = None) -> bool:
        """Write the object if it does not exist yet; return whether this call created it. One request.

        Never leaves half an object. A server that ignores the condition (rclone's) overwrites: True; where it has the
        object replaced, others may for a moment find none, or half of it. One that refuses the condition (501) is asked
        to write without. When an answer is lost and the repetition finds the object of the first attempt, the result is
        False.
        """
        # A server that never says "100 Continue" is silent without the client's read timeout noticing: seen of
        # `rclone serve s3` under many uploads at once. So one attempt does not get all of the time.
        longest = self._policy.upload_attempt + len(data) / self._policy.upload_rate

        def attempt(backend: Backend, left: float) -> bool:
            try:
                backend.create(name, data, min(left, longest), exclusive=self._conditions)
            except Exception as exc:
                if exists_already(exc):
                    return False
                if self._conditions and refuses_conditions(exc):
                    logger.debug("%s does not know create-only writes; writing without", self.url)
                    self._conditions = False
                    self._counter.add(requests=1)
                    return attempt(backend, left)
                raise
            return True

        seconds = self._policy.seconds(timeout, upload=len(data))
        created = self._try("create", self._address.check(name), attempt, seconds)
        if created:
            self._counter.add(bytes_up=len(data), objects_created=1)
        return created

    def list(self, prefix: str = "", *, timeout: float | None = None) -> dict[str, ObjectInfo]:
        """Return all objects below `prefix` (empty, or with a slash at its end), by their name below the URL.

        A request for 1,000 objects; one for an empty answer, two on GCS. Objects whose names no tritonsync would
        write are left out.
        """
        ahead = self._listed_ahead.pop(prefix, None)
        return self._list(prefix, timeout) if ahead is None else ahead.result()

    def _list(self, prefix: str, timeout: float | None) -> dict[str, ObjectInfo]:
        def attempt(backend: Backend, left: float) -> dict[str, Mapping[str, Any]]:
            found = backend.find(prefix, self._policy.part(left))
            self._counter.add(requests=backend.pages(len(found)) - 1)
            return found

        self._address.check_prefix(prefix)
        found = self._try("list", prefix, attempt, timeout)
        objects = {}
        for name, info in found.items():
            try:
                self._address.check(name)
            except HostileNameError:
                logger.debug("%s holds an object that is none of ours: %r", self.url, name[:200])
                continue
            objects[name] = ObjectInfo(size=int(info.get("size") or 0), modified=modified(info))
        return objects

    def list_ahead(self, prefix: str) -> None:
        """Begin a listing on a thread; the next call of `list` for this prefix takes its answer, or its error."""
        self._listed_ahead[prefix] = start_thread(lambda: self._list(prefix, None))

    def delete(self, name: str, *, timeout: float | None = None) -> None:
        """Delete the object; it is no error if there is none. One request."""

        def attempt(backend: Backend, left: float) -> None:
            try:
                backend.remove(name, left)
            except FileNotFoundError as exc:
                if not is_missing(exc, self._address):
                    raise

        self._try("delete", self._address.check(name), attempt, timeout)

    def probe(self, *, write: bool = True, timeout: float | None = None) -> Access:
        """Find out whether this identity may read and write here, and that the bucket's format is known. Two requests.

        Writes the format object `tritonsync.json` if it is not there. A refused write is no error but "read-only"; that
        it exists already (412) is only told to those who may write.

        Args:
            write: False: write nothing, and answer "read-only" if the bucket can be read.
            timeout: seconds for all requests together.

        Raises:
            AccessDeniedError: it may not even be read.
            BucketNotFoundError: there is no such bucket.
            NewerFormatError: a newer tritonsync wrote it.
            FormatError: the format object is none.
        """
        deadline = Deadline(timeout)
        if not write:
            # Together: on GCS the listing is what tells a missing bucket from a missing object.
            listing = start_thread(lambda: self.list(f"{FORMAT_OBJECT}/", timeout=deadline.left))
            self._check_format(deadline)
            listing.result()
            return "read-only"
        denied: AccessDeniedError | None = None
        try:
            # First, so that a server that ignores conditions never loses the object of a newer format.
            self._check_format(deadline)
        except AccessDeniedError as exc:
            # Without s3:ListBucket this is what S3 says of an object that is not there yet.
            denied = exc
        try:
            created = self.create(FORMAT_OBJECT, FORMAT_CONTENT, timeout=deadline.left)
        except AccessDeniedError as exc:
            if denied is not None:
                raise denied from exc
            return "read-only"
        if denied is not None:
            if not created:
                raise denied
            self._check_format(deadline)
        return "read-write"

    def _check_format(self, deadline: Deadline) -> None:
        shown = self._address.show(FORMAT_OBJECT)
        try:
            check_format(self._format_object(deadline), shown)
        except FormatError:
            # What may have changed on its way is asked for once more before a command fails for it.
            check_format(self._format_object(deadline), shown)

    def _format_object(self, deadline: Deadline) -> bytes | None:
        try:
            return self.get(FORMAT_OBJECT, limit=MAX_FORMAT_BYTES, timeout=deadline.left)
        except UnfitObjectError:
            return b""  # which says no format

    def close(self) -> None:
        """Close this process's connections. The bucket can be used again: it opens new ones."""
        building = self._backends.pop(os.getpid(), None)
        if building is not None and building.done() and building.exception() is None:
            building.result().close()

    def __enter__(self) -> Bucket:  # noqa: PYI034 - typing.Self came with Python 3.11
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _try(self, verb: str, name: str, attempt: Callable[[Backend, float], T], timeout: float | None) -> T:
        """Make a call with all its repetitions, unless the breaker is open or there is no time."""
        seconds = self._policy.seconds(timeout)
        what = self._address.show(name)
        if seconds <= 0:
            why = f"{what} was not asked for: there is no time left to wait for the bucket"
            raise RemoteOffError(why, url=self.url, object_name=name)
        self._breaker.admit(what)
        healthy, began = False, time.monotonic()
        attempts = Attempts(self._address, verb, name, renew=self._forget_backend)

        def call(left: float) -> T:
            end = time.monotonic() + left
            with attempts.attempt():
                backend = self._backend().result(left)
                self._counter.add(requests=1)
                return attempt(backend, max(end - time.monotonic(), 0.0))

        try:
            result = self._policy.repeat(call, seconds, _is_passing, attempts.say_pause)
            healthy = True
        except Failure as failure:
            healthy = not failure.passing
            raise attempts.error() from failure.__cause__
        except TritonSyncError:
            # Settings: nothing was asked.
            healthy = True
            raise
        finally:
            self._breaker.record(healthy=healthy)
        logger.debug("%s %s: %.3f s", verb, what, time.monotonic() - began)
        return result

    def _forget_backend(self) -> None:
        """Have the next call build a new one, which reads the credentials anew; calls under way keep the old one."""
        with self._lock:
            self._backends.pop(os.getpid(), None)

    def _backend(self) -> Future[Backend]:
        """Return this process's backend, being built on a thread: asking for credentials may block."""
        pid = os.getpid()
        with self._lock:
            building = self._backends.get(pid)
            if building is None or (building.done() and building.exception() is not None):
                building = start_thread(lambda: self._build(self.engine))
                self._backends[pid] = building
        return building

    def _build(self, engine: Engine) -> Backend:
        def plain() -> Backend:
            return over_fsspec(self._address, self._options, self._policy)

        if engine.name != "obstore":
            return plain()
        from tritonsync.remote.obstore_backend import ObstoreBackend

        return ObstoreBackend(engine, self._address, self._policy, plain)


def _is_passing(exc: BaseException) -> bool:
    return isinstance(exc, Failure) and exc.passing
