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
        bytes_down: content of the objects that were read.
        bytes_up: content of the objects that were created.
        objects_created: objects that did not exist before.
    """

    requests: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    objects_created: int = 0


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

    def add(self, *, requests: int = 0, bytes_down: int = 0, bytes_up: int = 0, objects_created: int = 0) -> None:
        """Add to each."""
        with self._lock:
            self._now = BucketStats(
                self._now.requests + requests,
                self._now.bytes_down + bytes_down,
                self._now.bytes_up + bytes_up,
                self._now.objects_created + objects_created,
            )
