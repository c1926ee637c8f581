"""One download per host: a lock file per bundle beside the caches."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["LOCKS", "host_lock"]

log = logging.getLogger(__name__)

#: The folder of the lock files, inside Inductor's cache folder. Nothing but empty files is in it.
LOCKS = ".tritonsync"


@contextlib.contextmanager
def host_lock(cache_dir: Path, name: str, *, timeout: float | None) -> Iterator[bool]:
    """Hold the lock of that name among the processes that share a cache folder.

    Args:
        cache_dir: the folder they share.
        name: any text.
        timeout: seconds to wait; None waits for ever.

    Yields:
        whether the lock is held. Without it the work may be done twice, never wrongly, so nothing is raised: neither
        when the time is up, nor when the folder does not allow locks (some network file systems do not).
    """
    path = cache_dir / LOCKS / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock"
    lock = FileLock(path, timeout=-1 if timeout is None else timeout)
    held = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        held = True
    except Timeout:
        log.info("another process holds %s for more than %s s; going on without it", path, timeout)
    except (OSError, NotImplementedError) as exc:
        log.info("%s cannot be locked (%s); going on without it", path, exc)
    try:
        yield held
    finally:
        lock.release()
