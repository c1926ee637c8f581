"""What a bucket has done so far."""

from __future__ import annotations

import dataclasses
import threading

from tritonsync.remote.threads import forget_after_fork

__all__ = ["BucketStats", "Counter"]


@dataclasses.dataclass(frozen=True)
class BucketStats:
    """A moment's counters of one `Bucket` in one process; a forked child begins at zero.

    Attributes:
        requests: requests sent. Repetitions count, and so do answers that never came. On S3 and GCS it is the number
            of HTTP requests, a listing being counted by its pages; only uploads in parts (100 MB and more on S3, 50 MB
            on GCS) count as one, and requests for credentials as none.
        objects_read: objects whose content was read.
        bytes_down: content of these objects.
        bytes_up: content of the objects that were created.
        objects_created: objects that did not exist before.
    """

    requests: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    objects_created: int = 0
    objects_read: int = 0


class Counter:
    """Adds up, from many threads."""

    def __init__(self) -> None:
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Begin at zero."""
        self._lock = threading.Lock()
        self._now = BucketStats()

    @property
    def now(self) -> BucketStats:
        """The counters at this moment."""
        return self._now

    def add(self, **more: int) -> None:
        """Add to the counters of these names."""
        with self._lock:
            now = self._now
            self._now = dataclasses.replace(now, **{name: getattr(now, name) + value for name, value in more.items()})
