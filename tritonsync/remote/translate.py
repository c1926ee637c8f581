"""The one place where errors of fsspec, its backends and their clients become ours.

No client is imported here: botocore, aiohttp, google-auth and requests share no base class, so their errors are known
by the HTTP status they carry, and by module and name where there is none. Checked with s3fs 2026.9, gcsfs 2026.10.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import socket
from collections.abc import Iterator

from tritonsync.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    RemoteError,
    RemoteTimeoutError,
    SettingsError,
    TritonSyncError,
)
from tritonsync.remote.url import Address

__all__ = ["Failure", "exists_already", "is_missing", "refuses_conditions", "translated"]

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
_DENIED_CODES = frozenset(
    {
        "AccessDenied",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "TokenRefreshRequired",
    }
)
_PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
#: S3's codes for "ask again" with another status. An upload in parts that lost a race is "NoSuchUpload".
_PASSING_CODES = frozenset({"InternalError", "NoSuchUpload", "RequestTimeout", "SlowDown", "ServiceUnavailable"})
#: Where errors keep the HTTP status, by the package they are from.
_STATUS_FIELDS = {"azure": "status_code", "gcsfs": "code"}
#: Packages whose errors without a status are about the network.
_NETWORK = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "google", "requests", "urllib3"})


class Failure(Exception):  # noqa: N818 - it never leaves this room
    """One attempt that failed: the error to raise, and whether another attempt may succeed."""

    def __init__(self, error: TritonSyncError, *, passing: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.passing = passing


@contextlib.contextmanager
def translated(address: Address, verb: str, name: str, seconds: float) -> Iterator[None]:
    """Turn every error of an attempt into a `Failure`; ours pass.

    Args:
        address: where the bucket is.
        verb: what was tried, as an infinitive: `read`, `create`, `list`, `delete`, `open`.
        name: the object or prefix.
        seconds: how long the attempt could take.
    """
    try:
        yield
    except TritonSyncError:
        raise
    except Exception as exc:
        failure = _failure(exc, address, f"cannot {verb} {address.show(name)}", seconds)
        failure.error.url, failure.error.object_name = address.url, name
        raise failure from exc


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


def _reason(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text[:300]}" if text else type(exc).__name__


def _failure(exc: Exception, address: Address, tried: str, seconds: float) -> Failure:
    status, code = _answer(exc)
    names = {kind.__name__ for each in _chain(exc) for kind in type(each).__mro__}
    reason = _reason(exc)
    if names & _WRONG_OPTIONS:
        return Failure(SettingsError(f"{tried}: {reason}"), passing=False)
    # A token server that cannot be reached is not a refusal.
    if names & _NO_IDENTITY and "TransportError" not in names:
        return Failure(AccessDeniedError(f"{tried}: no credentials ({reason}). {_who_are_you(address)}"), passing=False)
    if status in (401, 403) or code in _DENIED_CODES or (status is None and isinstance(exc, PermissionError)):
        return Failure(
            AccessDeniedError(f"{tried}: access denied ({reason}). {_rights(address, tried)}"), passing=False
        )
    if code == "NoSuchBucket" or (isinstance(exc, FileNotFoundError) and address.bucket and code not in _PASSING_CODES):
        return Failure(
            BucketNotFoundError(
                f"{tried}: there is no bucket {address.bucket!r} ({reason}); create it, or correct the URL, region "
                "or endpoint"
            ),
            passing=False,
        )
    if isinstance(exc, _TIMEOUTS) or any("Timeout" in name for name in names):
        shown = f" ({reason})" if str(exc) else ""
        return Failure(RemoteTimeoutError(f"{tried}: no answer in the {seconds:.1f} s allowed{shown}"), passing=True)
    if status is not None:
        shown = f"HTTP {status}{f' {code}' if code and code != str(status) else ''}"
        return Failure(
            RemoteError(f"{tried}: {shown} ({reason})"), passing=status in _PASSING_STATUS or code in _PASSING_CODES
        )
    return Failure(RemoteError(f"{tried}: {reason}"), passing=_may_pass(exc, address))


def _may_pass(exc: Exception, address: Address) -> bool:
    """Return whether an error without an HTTP status may be gone the next time: one of the network."""
    if isinstance(exc, (ConnectionError, socket.gaierror, EOFError)):
        return True
    if isinstance(exc, OSError):
        # A full disk stays full. What sftp and others raise is mostly about the connection.
        return not address.is_folder or exc.errno in (errno.EAGAIN, errno.EINTR, errno.EIO, errno.ESTALE)
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


def _rights(address: Address, tried: str) -> str:
    reading = not tried.startswith(("cannot create", "cannot delete"))
    if address.is_s3 and reading:
        return (
            "This identity needs s3:GetObject and s3:ListBucket; without s3:ListBucket, S3 answers 403 instead of 404 "
            "for an object that does not exist."
        )
    if address.is_s3:
        return "This identity needs s3:PutObject and s3:AbortMultipartUpload to write (s3:DeleteObject to delete)."
    if address.is_gcs and reading:
        return "This identity needs roles/storage.objectViewer; without any credentials gcsfs asks anonymously."
    if address.is_gcs:
        return "This identity needs roles/storage.objectCreator to write (roles/storage.objectUser to delete)."
    return "Check the owner and mode of the folder." if address.is_folder else "Check the rights of this identity."
