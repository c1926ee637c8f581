"""Building the fsspec filesystem of an address, with our options, and closing it.

Credentials, endpoints and regions come the ecosystem's own ways (AWS and Google variables and files, fsspec's
configuration) and from `storage_options`, which win over everything set here except the two that decide whether a
result is right: no instance shared with the user's own code, and no cache of listings (s3fs reports an object that
another process has written since the last listing as missing).
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Mapping
from typing import Any

from tritonsync import times
from tritonsync.errors import MissingExtraError, SettingsError
from tritonsync.remote.first_bytes import bounded_response
from tritonsync.remote.threads import on_loop
from tritonsync.remote.url import Address
from tritonsync.remote.waiting import RetryPolicy

__all__ = ["MAX_CONNECTIONS", "build", "close", "filesystem_class"]

#: Requests at once to one bucket.
MAX_CONNECTIONS = 32


def filesystem_class(address: Address) -> Any:  # noqa: ANN401 - fsspec has no types
    """Import the class of the filesystem.

    Raises:
        MissingExtraError: its package is not installed.
    """
    import fsspec  # not at the top: obstore does without

    try:
        found = fsspec.get_filesystem_class(address.protocol)
    except ImportError as exc:
        raise MissingExtraError(
            f"{address.url} needs a package that cannot be imported ({exc})",
            url=address.url,
            hint=f"pip install 'tritonsync[{address.extra}]'" if address.extra else _how_to_get(exc),
        ) from exc
    if address.is_gcs:
        # gcsfs' own default asks a gRPC service for the kind of the bucket before its first request, and again each
        # time where that is not allowed (extended_gcsfs.py, 2026.10). The plain class does all that is needed here.
        return next((kind for kind in found.__mro__ if kind.__module__ == "gcsfs.core"), found)
    return found


def _how_to_get(exc: ImportError) -> str:
    """Say what brings a filesystem that no extra of ours does: what fsspec failed to import, if it names that too."""
    name = exc.__cause__.name if isinstance(exc.__cause__, ImportError) else None
    return f"pip install {name}" if name and name in str(exc) else "install it"


def build(address: Address, options: Mapping[str, Any], patience: RetryPolicy) -> Any:  # noqa: ANN401
    """Make a filesystem of its own for this process. It may ask for credentials, so it may block.

    Raises:
        MissingExtraError: its package is not installed.
        SettingsError: it does not take these options.
    """
    from fsspec.config import apply_config

    kind = filesystem_class(address)
    ours: dict[str, Any] = {"skip_instance_cache": True}
    if address.is_s3 or address.is_gcs:
        # fsspec's own configuration, read here because nested options have to be merged, not replaced.
        options = apply_config(kind, dict(options))
        ours |= {"use_listings_cache": False, "asynchronous": False}
    if address.is_s3:
        ours["config_kwargs"] = {
            "connect_timeout": patience.connect_timeout,
            "read_timeout": patience.read_timeout,
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "max_pool_connections": MAX_CONNECTIONS,
            **options.get("config_kwargs", {}),
        }
    if not (address.is_s3 or address.is_gcs or address.is_folder):
        options = {**kind._get_kwargs_from_urls(address.url), **options}  # noqa: SLF001 - the host, of those that have one
    if address.is_gcs:
        ours["session_kwargs"] = {"response_class": bounded_response(), **(options.get("session_kwargs") or {})}
        if options.get("requests_timeout") is None:
            ours["requests_timeout"] = _silence(patience)
    try:
        filesystem = kind(**{**options, **ours})
    except (TypeError, KeyError, ValueError) as exc:
        if exc.__cause__ is not None:
            # Not about the options: gcsfs says "Invalid gcloud credentials" of a metadata server that does not answer.
            raise
        raise SettingsError(
            f"{address.url}: {address.protocol} does not take these storage options ({exc}); check "
            "TRITONSYNC_STORAGE_OPTIONS and fsspec's configuration"
        ) from exc
    _tune(filesystem, address)
    return filesystem


def _silence(patience: RetryPolicy) -> Any:  # noqa: ANN401
    import aiohttp  # comes with gcsfs

    # `sock_read` is the time without a byte; without it only the deadline of the whole call ends a silent connection.
    return aiohttp.ClientTimeout(total=None, sock_connect=patience.connect_timeout, sock_read=patience.read_timeout)


def _tune(filesystem: Any, address: Address) -> None:  # noqa: ANN401
    if address.is_s3:
        # Attempts in total, and an attribute only; 0 raises TypeError (s3fs/core.py, `_error_wrapper`, 2026.9).
        filesystem.retries = 1
        # A server may send the checksum of a whole object with the part that was asked for (rclone 1.75), and what is
        # read here is checked by its sha256 all the same. botocore knows the option since 1.36.
        from botocore.config import Config  # comes with s3fs

        if "response_checksum_validation" in Config.OPTION_DEFAULTS:
            filesystem.config_kwargs.setdefault("response_checksum_validation", "when_required")
    elif address.is_gcs:
        # The six retries are a decorator of this one method, which also logs tracebacks. Without it errors come to us
        # at once; should it be built differently one day, our deadline still abandons the call.
        plain = getattr(type(filesystem)._request, "__wrapped__", None)  # noqa: SLF001 - no public switch exists
        if plain is not None:
            filesystem._request = types.MethodType(plain, filesystem)  # noqa: SLF001
    else:
        with contextlib.suppress(AttributeError):
            filesystem.dircache.use_listings_cache = False


def close(filesystem: Any) -> None:  # noqa: ANN401
    """Close the connections of a filesystem that this process built; it must not be used any more.

    s3fs and gcsfs do it when they are collected, but gcsfs only asks the event loop to do so some time later.
    """
    with contextlib.suppress(Exception):  # what is left open is closed with the process
        session = getattr(filesystem, "_session", None)
        if session is not None and not session.closed:
            on_loop(filesystem.loop, session.close(), times.CLOSE_S)
        creator = getattr(filesystem, "_s3creator", None)
        if creator is not None:
            filesystem.close_session(filesystem.loop, creator)
