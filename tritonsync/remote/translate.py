"""The one place where errors of fsspec, its backends and their clients become ours.

No client is imported here: botocore, aiohttp, google-auth and requests share no base class, so their errors are known
by the HTTP status they carry, and by module and name where there is none. Checked with s3fs 2026.9, gcsfs 2026.10.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence

from tritonsync.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    RemoteError,
    RemoteTimeoutError,
    SettingsError,
    TritonSyncError,
)
from tritonsync.redaction import redact
from tritonsync.remote.url import Address

__all__ = ["Attempts", "Failure", "exists_already", "is_missing", "is_past_the_end", "refuses_conditions"]

log = logging.getLogger(__name__)

_TIMEOUTS = (TimeoutError, concurrent.futures.TimeoutError)

#: botocore and google-auth errors that say: nobody told us who we are. Found by name, anywhere among the base classes.
_NO_IDENTITY = frozenset(
    {
        "CredentialRetrievalError",
        "DefaultCredentialsError",
        "GoogleAuthError",
        "MetadataRetrievalError",
        "NoAuthTokenError",
        "NoCredentialsError",
        "NonRetryableError",
        "PartialCredentialsError",
        "SSOError",
        "TokenRetrievalError",
    }
)
#: botocore errors about what the user wrote.
_WRONG_OPTIONS = frozenset(
    {
        "ConfigNotFound",
        "ConfigParseError",
        "InvalidConfigError",
        "InvalidRegionError",
        "NoRegionError",
        "ParamValidationError",
        "ProfileNotFound",
    }
)
#: S3's codes for "not you" that come with another status than 401 and 403.
_DENIED_CODES = frozenset({"AccessDenied", "InvalidAccessKeyId", "InvalidToken"})
#: S3's codes for credentials that were good once, with 400 and 403. GCS says 401.
_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
#: S3's codes for "ask again" with another status. An upload in parts that lost a race is "NoSuchUpload".
_PASSING_CODES = frozenset({"InternalError", "NoSuchUpload", "RequestTimeout", "SlowDown", "ServiceUnavailable"})
#: Where errors keep the HTTP status, by the package they are from.
_STATUS_FIELDS = {"azure": "status_code", "gcsfs": "code"}
#: Packages whose errors without a status are about the network. `json`: an answer of GCS that breaks off, or is none.
_NETWORK = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "google", "json", "requests", "urllib3"})

#: What clients raise over an answer that was damaged on its way: it is no text, or it lacks a field.
_NO_ANSWERS = (UnicodeDecodeError, KeyError)


class Failure(Exception):  # noqa: N818 - it never leaves this room
    """One attempt that failed.

    Args:
        kind: of the error to raise.
        what: what happened, with the server's answer.
        advice: what to do about it.
        passing: whether another attempt may succeed.
        is_answer: whether the server said so, rather than nobody.
        is_expired: whether the credentials were good once, so that there may be newer ones.
    """

    def __init__(
        self,
        kind: type[TritonSyncError],
        what: str,
        advice: str = "",
        *,
        passing: bool,
        is_answer: bool = False,
        is_expired: bool = False,
    ) -> None:
        super().__init__(what)
        self.kind, self.what, self.advice = kind, what, advice
        self.passing, self.is_answer, self.is_expired = passing, is_answer, is_expired


class Attempts:
    """All attempts at one call.

    Args:
        address: where the bucket is.
        verb: what is tried, as an infinitive: `read`, `create`, `list`, `delete`.
        name: the object or prefix.
        renew: called once when the credentials have expired; makes another attempt worth while.
    """

    def __init__(self, address: Address, verb: str, name: str, renew: Callable[[], None]) -> None:
        self._address, self._verb, self._name, self._renew = address, verb, name, renew
        self._began = time.monotonic()
        self._failures: list[Failure] = []

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Turn every error of one attempt into a `Failure`; ours pass."""
        began = time.monotonic()
        try:
            yield
        except TritonSyncError:
            raise
        except Exception as exc:
            failure = _failure(exc, self._address, self._verb, time.monotonic() - began)
            if failure.is_expired and not any(earlier.is_expired for earlier in self._failures):
                self._renew()
                failure.passing = True
            self._failures.append(failure)
            raise failure from exc

    def say_pause(self, seconds: float) -> None:
        """Log what happened before a pause of so many seconds."""
        what = f"cannot {self._verb} {self._address.show(self._name)}"
        log.info("%s: %s; trying again in %.1f s", what, self._failures[-1].what, seconds)

    def error(self) -> TritonSyncError:
        """Return the error to raise when the last attempt has failed; its cause is that of the attempt it tells of."""
        failure, count = _most_telling(self._failures), len(self._failures)
        repeated = f" after {count} attempts in {time.monotonic() - self._began:.1f} s" if count > 1 else ""
        advice = f". {failure.advice}" if failure.advice else ""
        what = f"cannot {self._verb} {self._address.show(self._name)}"
        error = failure.kind(f"{what}: {failure.what}{repeated}{advice}", url=self._address.url, object_name=self._name)
        error.hint = failure.advice or None
        error.__cause__ = failure.__cause__
        return error


def _most_telling(failures: Sequence[Failure]) -> Failure:
    """Return which attempt to tell of: the last, or the last that was answered where that one was not.

    A server that has answered 500 three times and then nothing is a server that answers 500.
    """
    last = failures[-1]
    if last.is_answer or not last.passing:
        return last
    return next((failure for failure in reversed(failures) if failure.is_answer), last)


def is_missing(exc: FileNotFoundError, address: Address) -> bool:
    """Return whether it is the object that does not exist. Of a missing bucket only S3 says so."""
    _status, code = _answer(exc)
    return not (address.is_s3 and code == "NoSuchBucket")


def exists_already(exc: BaseException) -> bool:
    """Return whether a create-only write found its object there.

    s3fs says `FileExistsError` only if the answer names its condition; some servers answer 412 without (MinIO, Ceph).
    """
    status, code = _answer(exc)
    return isinstance(exc, FileExistsError) or status == 412 or code == "PreconditionFailed"


def is_past_the_end(exc: BaseException) -> bool:
    """Return whether a range was asked for that begins after the object's last byte: of an empty one, any."""
    status, code = _answer(exc)
    return status == 416 or code == "InvalidRange"


def refuses_conditions(exc: BaseException) -> bool:
    """Return whether the server does not know create-only writes and says so."""
    status, code = _answer(exc)
    return status == 501 or code == "NotImplemented"


def _chain(exc: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = exc
    for _ in range(6):
        if following is None:
            return
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)


def _answer(exc: BaseException) -> tuple[int | None, str]:
    """Return the HTTP status and S3's error code, as far as the error or one of its causes tells."""
    for each in _chain(exc):
        response = getattr(each, "response", None)  # botocore ClientError
        if isinstance(response, dict):
            code = str(response.get("Error", {}).get("Code", ""))
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode"), code
        # gcsfs HttpError, azure HttpResponseError. Not aiohttp: its parser gives an answer that breaks off the code
        # 400, and no server said so.
        field = _STATUS_FIELDS.get(type(each).__module__.partition(".")[0], "")
        number = str(getattr(each, field, None)) if field else ""
        if number.isdecimal():
            return int(number), ""
        # gcsfs/retry.py, validate_response: a 403 is a plain OSError, a 502 an error of requests.
        if type(each) is OSError and str(each).startswith("Forbidden"):
            return 403, ""
        if type(each).__name__ == "ProxyError" and not each.args:
            return 502, ""
    return None, ""


def _reason(exc: BaseException, *, is_answer: bool) -> str:
    if is_answer and isinstance(exc, OSError) and exc.strerror:
        # s3fs puts what the server says into an OSError whose number says less than the status.
        return redact(" ".join(exc.strerror.split()))[:300]
    text = redact(" ".join(str(exc).split()))  # first: half a secret would not be known for one
    return f"{type(exc).__name__}: {text[:300]}" if text else type(exc).__name__


def _failure(exc: Exception, address: Address, verb: str, seconds: float) -> Failure:
    status, code = _answer(exc)
    names = {kind.__name__ for each in _chain(exc) for kind in type(each).__mro__}
    is_answer = status is not None or bool(code)
    reason = _reason(exc, is_answer=is_answer)
    if names & _WRONG_OPTIONS:
        return Failure(SettingsError, reason, passing=False)
    # A token server that cannot be reached is not a refusal.
    if names & _NO_IDENTITY and "TransportError" not in names:
        return Failure(AccessDeniedError, f"no credentials ({reason})", _who_are_you(address), passing=False)
    if code in _EXPIRED_CODES or (status == 401 and address.is_gcs):
        return Failure(
            AccessDeniedError,
            f"access denied: the credentials have expired, or are not valid any more ({reason})",
            "Renew them (log in again, or let the machine's role do it) and start again.",
            passing=False,
            is_answer=True,
            is_expired=True,
        )
    if status in (401, 403) or code in _DENIED_CODES or (status is None and isinstance(exc, PermissionError)):
        return Failure(
            AccessDeniedError,
            f"access denied ({reason})",
            _rights(address, is_reading=verb not in ("create", "delete")),
            passing=False,
            is_answer=is_answer,
        )
    if code == "NoSuchBucket" or (isinstance(exc, FileNotFoundError) and address.bucket and code not in _PASSING_CODES):
        return Failure(
            BucketNotFoundError,
            f"there is no bucket {address.bucket!r} ({reason})",
            "Create it, or correct the URL, region or endpoint.",
            passing=False,
            is_answer=is_answer,
        )
    if status is None and (isinstance(exc, _TIMEOUTS) or any("Timeout" in name for name in names)):
        shown = f" ({reason})" if str(exc) else ""
        return Failure(RemoteTimeoutError, f"no whole answer in {seconds:.1f} s{shown}", passing=True)
    if status is not None:
        shown = f"HTTP {status}{f' {code}' if code and code != str(status) else ''}"
        passing = status in _PASSING_STATUS or code in _PASSING_CODES
        return Failure(RemoteError, f"{shown} ({reason})", passing=passing, is_answer=True)
    return Failure(RemoteError, reason, passing=_may_pass(exc, address))


def _may_pass(exc: Exception, address: Address) -> bool:
    """Return whether an error without an HTTP status may be gone the next time: one of the network."""
    if isinstance(exc, (ConnectionError, socket.gaierror, EOFError)):
        return True
    if isinstance(exc, OSError):
        # A full disk stays full. What sftp and others raise is mostly about the connection.
        return not address.is_folder or exc.errno in (errno.EAGAIN, errno.EINTR, errno.EIO, errno.ESTALE)
    if isinstance(exc, _NO_ANSWERS):
        return not address.is_folder
    return type(exc).__module__.partition(".")[0] in _NETWORK


def _who_are_you(address: Address) -> str:
    if address.is_s3:
        return (
            "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role; for a public "
            "bucket set TRITONSYNC_STORAGE_OPTIONS='{\"anon\": true}'."
        )
    if address.is_gcs:
        return (
            "Set GOOGLE_APPLICATION_CREDENTIALS, run `gcloud auth application-default login`, or give the machine a "
            "service account."
        )
    return "Give them as TRITONSYNC_STORAGE_OPTIONS."


def _rights(address: Address, *, is_reading: bool) -> str:
    if address.is_s3 and is_reading:
        return (
            "This identity needs s3:GetObject and s3:ListBucket; without s3:ListBucket, S3 answers 403 instead of 404 "
            "for an object that does not exist."
        )
    if address.is_s3:
        return "This identity needs s3:PutObject and s3:AbortMultipartUpload to write (s3:DeleteObject to delete)."
    if address.is_gcs and is_reading:
        return "This identity needs roles/storage.objectViewer; without any credentials gcsfs asks anonymously."
    if address.is_gcs:
        return "This identity needs roles/storage.objectCreator to write (roles/storage.objectUser to delete)."
    return "Check the owner and mode of the folder." if address.is_folder else "Check the rights of this identity."
