"""The verbs of a bucket over obstore, whose blocking calls are made on our own daemon threads.

Not through `obstore.fsspec.FsspecStore`: that one forgets the mode of a write and lists folder by folder; its
coroutines cost three times the CPU (0.45 ms a read against 0.14 ms); and a program that ends with some of them on their
way is aborted (2 of 25 programs, against none of 160 with blocking calls; obstore 0.12.1, Python 3.11 to 3.13).

obstore's errors are texts. They are taken apart here, into what `translate.py` understands.
"""

from __future__ import annotations

import ctypes
import datetime
import functools
import logging
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tritonsync import times
from tritonsync.errors import SettingsError
from tritonsync.remote.backend import Backend
from tritonsync.remote.engine import Engine
from tritonsync.remote.threads import forget_after_fork, on_thread
from tritonsync.remote.url import Address
from tritonsync.remote.waiting import RetryPolicy

__all__ = ["ObstoreBackend"]

log = logging.getLogger(__name__)

T = TypeVar("T")

#: `<what>: Error performing GET <url> in 1ms - Server returned non-2xx status code: 404 Not Found: <body>`
_ANSWER = re.compile(r"^[^\n]*? - Server returned non-2xx status code: (\d{3})([^:\n]*): ?(.*)", re.DOTALL)
_ASKED = re.compile(r"Error performing [A-Z]+ (\S+)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
#: In the dump of values behind the text: what became of a connection.
_BROKEN = re.compile(r"\bHttpError \{\s*kind: (\w+)")
_SAID = {"Connect": "cannot connect", "Timeout": "silence", "Decode": "the answer makes no sense"}
_NO_LOCATION = "Received redirect without LOCATION"
#: Codes of S3 for a request signed for another region than the bucket's.
_ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"})
_LONGEST = datetime.timedelta(seconds=times.ABANDONED_S)

#: Bytes of an object that are taken at a time where not all of it is wanted.
_PART = 64 * 1024


class AnswerError(OSError):
    """An answer that is no success, in the shape of botocore's: `translate.py` reads it."""

    def __init__(self, status: int, code: str, said: str) -> None:
        super().__init__(said)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class ObjectNotFoundError(AnswerError, FileNotFoundError):
    pass


class CredentialRetrievalError(OSError):
    """Whoever gives credentials away did not; the name is botocore's."""


class _CannotError(Exception):
    """Something that the other client can: find a bucket's region, list names that obstore does not take."""


class ObstoreBackend(Backend):
    """S3 or GCS.

    Args:
        engine: what the store is made with.
        address: of the bucket.
        patience: timeouts of single requests; repetitions are not obstore's.
        otherwise: makes the backend that takes over where obstore cannot go on.

    Raises:
        SettingsError: the settings make no store.
    """

    def __init__(
        self, engine: Engine, address: Address, patience: RetryPolicy, otherwise: Callable[[], Backend]
    ) -> None:
        from obstore.store import GCSStore, S3Store

        kind = S3Store if address.is_s3 else GCSStore
        self._address = address
        self._large = patience.read_timeout * patience.upload_rate
        self._otherwise = otherwise
        self._elsewhere: Backend | None = None

        def make(silence: float) -> Any:  # noqa: ANN401 - S3Store or GCSStore
            client = {
                # The user wrote the endpoint; s3fs takes http:// there as well.
                "allow_http": str(engine.config.get("endpoint") or engine.config.get("base_url")).startswith("http://"),
                "connect_timeout": datetime.timedelta(seconds=patience.connect_timeout),
                "read_timeout": datetime.timedelta(seconds=silence),
                "timeout": _LONGEST,
            }
            retries = {"max_retries": 0, "retry_timeout": _LONGEST}
            return kind(address.bucket, **engine.config, client_options=client, retry_config=retries)

        try:
            self._store = make(patience.read_timeout)
            # The time that a body takes to be sent counts as silence (reqwest). For those that may take longer our own
            # deadline has to do. It asks for credentials of its own, when it is first used.
            self._large_bodies = make(times.ABANDONED_S)
        except Exception as exc:
            text = " ".join(str(exc).partition("\n\n")[0].split())
            raise SettingsError(f"{address.url}: obstore cannot be used with these settings ({text})") from exc
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Keep the parent's stores for ever: taking them apart would speak to a runtime whose threads are not here."""
        if hasattr(self, "_lock"):
            for store in (self._store, self._large_bodies):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))
        self._lock = threading.Lock()

    def read(self, name: str, count: int, timeout: float) -> bytes:
        """Return the object's first `count` bytes. FileNotFoundError: there is none, or no bucket."""

        def call() -> bytes:
            answer = self._store.get(self._path(name))
            if answer.meta["size"] <= count:
                whole: bytes = answer.bytes().to_bytes()
                return whole
            parts, left = [], count
            for part in answer.stream(min_chunk_size=_PART):
                parts.append(bytes(part)[:left])
                left -= len(parts[-1])
                if not left:
                    break
            return b"".join(parts)

        return self._run(call, lambda other: other.read(name, count, timeout), timeout)

    def create(self, name: str, data: bytes, timeout: float, *, exclusive: bool) -> None:
        """Write the object whole. FileExistsError: it is there, and `exclusive` was asked for."""
        # Parts are asked for their condition only at the end, and GCS has none for them: one request, up to 5 GB.
        call = functools.partial(
            (self._large_bodies if len(data) > self._large else self._store).put,
            self._path(name),
            data,
            mode="create" if exclusive else "overwrite",
            use_multipart=False,
        )
        self._run(call, lambda other: other.create(name, data, timeout, exclusive=exclusive), timeout)

    def find(self, prefix: str, timeout: float) -> dict[str, Mapping[str, Any]]:
        """Return obstore's facts of all objects below `prefix`, by name relative to the URL."""
        start = len(self._address.prefix)

        def call() -> dict[str, Mapping[str, Any]]:
            found = self._store.list(self._path(prefix)).collect()
            return {info["path"][start:]: info for info in found}

        return self._run(call, lambda other: other.find(prefix, timeout), timeout)

    def remove(self, name: str, timeout: float) -> None:
        """Delete the object. FileNotFoundError: there is none (GCS says so)."""
        call = functools.partial(self._store.delete, self._path(name))
        self._run(call, lambda other: other.remove(name, timeout), timeout)

    def close(self) -> None:
        """Close what took over; obstore's own connections end when they have been idle for a while."""
        if self._elsewhere is not None:
            self._elsewhere.close()

    def _path(self, name: str) -> str:
        return self._address.prefix + name

    def _run(self, call: Callable[[], T], other: Callable[[Backend], T], timeout: float) -> T:
        """Make a call on a thread; it is left alone when `timeout` seconds are over."""
        if self._elsewhere is None:
            try:
                return on_thread(functools.partial(self._told_apart, call), timeout)
            except _CannotError as exc:
                log.debug("%s: obstore cannot serve it (%s); going on without", self._address.url, exc)
                with self._lock:
                    self._elsewhere = self._elsewhere or on_thread(self._otherwise, timeout)
        return other(self._elsewhere)

    def _told_apart(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BaseException as exc:  # noqa: BLE001 - a panic in Rust is no Exception
            # Not chained: most of obstore's text is a dump of Rust values.
            raise _meaning(type(exc).__name__, str(exc), self._address) from None


def _meaning(name: str, text: str, address: Address) -> Exception:
    """Return the error that obstore's text means."""
    text, _, values = text.partition("\n\nDebug source:")
    if _NO_LOCATION in text or name == "InvalidPathError":  # the last of a name in a listing
        return _CannotError(text[:200])
    asked = _ASKED.search(text)
    where = urllib.parse.unquote(asked[1]) if asked else ""
    answer = _ANSWER.match(text)
    bucket = re.escape(address.bucket)
    if asked and not re.search(rf"//{bucket}\.|/{bucket}(?:[/?]|$)", where):
        return CredentialRetrievalError(f"{where}: {answer[1] if answer else text[-200:]}")
    if answer is not None:
        status, phrase, body = answer.groups()
        code, message = _CODE.search(body), _MESSAGE.search(body)
        if code and code[1] in _ELSEWHERE:
            return _CannotError(code[1])
        said = " ".join((message[1] if message else body).split()) or f"{status}{phrase}"
        return (ObjectNotFoundError if status == "404" else AnswerError)(int(status), code[1] if code else "", said)
    broken = _BROKEN.search(values)
    if broken is None:
        return OSError(f"{name}: {' '.join(text.split())}")
    said = _SAID.get(broken[1], "the connection broke")
    host = urllib.parse.urlsplit(where).netloc
    return (TimeoutError if broken[1] == "Timeout" else ConnectionError)(f"{host}: {said}" if host else said)
