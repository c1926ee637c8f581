"""The first requests of a command that reads, sent while the rest of the program is still being imported.

Parsing arguments and opening caches take 0.2 s to import, a connection and the first answer some round trips. Only what
stands plainly among the arguments is understood here; where more than a URL decides about the bucket, nothing is sent
ahead. Errors wait for the command: it asks for the answer where it would have sent the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tritonsync.remote.bucket import Access, Bucket
    from tritonsync.settings import Settings

__all__ = ["Ahead", "send", "take"]

#: Commands that find out first whether the bucket may be read.
_READING = frozenset({"ls", "pull", "show", "verify"})
#: Options after which the bucket would be opened otherwise, or not at all.
_DECIDING = ("-h", "--help", "--storage-options", "--timeout")

Ahead = tuple["Bucket", "Future[Access]"]
_sent: list[Ahead] = []


def send(arguments: Sequence[str]) -> None:
    """Open the bucket of a command line and ask, on threads, whether it may be read; never raises.

    A pull asks for the bundles of its workload at the same time.
    """
    if not arguments or arguments[0] not in _READING or any(word.startswith(_DECIDING) for word in arguments):
        return
    from tritonsync import times
    from tritonsync.format.layout import key_prefix
    from tritonsync.remote.bucket import Bucket
    from tritonsync.remote.threads import start_thread
    from tritonsync.remote.waiting import RetryPolicy
    from tritonsync.settings import Settings

    try:
        settings = Settings.from_env(url=_given("--url", arguments), workload=_given("--workload", arguments))
        if settings.url is None:
            return
        patience = RetryPolicy.of_command(times.COMMAND_S)
        bucket = Bucket(
            settings.url, storage_options=settings.storage_options, patience=patience, engine=settings.engine
        )
        if arguments[0] == "pull" and settings.workload:
            bucket.list_ahead(key_prefix("workload", settings.workload))
    except Exception:  # noqa: BLE001 - the command says so
        return
    _sent.append((bucket, start_thread(lambda: bucket.probe(write=False))))


def take(settings: Settings, timeout: float) -> Ahead | None:
    """Return the bucket that was opened for these settings, with the answer to come; None if none was."""
    from tritonsync import times

    if not _sent or timeout != times.COMMAND_S or settings.url is None:
        return None
    from tritonsync.remote.url import parse_url

    bucket, answer = _sent.pop()
    return (bucket, answer) if bucket.url == parse_url(settings.url).url else None


def _given(option: str, arguments: Sequence[str]) -> str | None:
    """Return what an option says, the last time."""
    found = None
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.removeprefix(f"{option}=")
    return found or None
