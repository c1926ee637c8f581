"""Work on several bundles at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["Progress", "in_parallel"]

T = TypeVar("T")
R = TypeVar("R")

#: Bundles in flight at a time: enough to hide round trips, few enough to hold in memory.
BUNDLES_AT_ONCE = 4

#: Called with (done, all).
Progress = Callable[[int, int], None]


def in_parallel(work: Callable[[T], R], items: Sequence[T], progress: Progress | None) -> Iterator[R]:
    """Do the work of every item, a few at a time; the first error ends it, without waiting for what is in flight."""
    threads = ThreadPoolExecutor(BUNDLES_AT_ONCE, thread_name_prefix="tritonsync")
    try:
        results = threads.map(work, items)
        for done in range(1, len(items) + 1):
            yield next(results)
            if progress is not None:
                progress(done, len(items))
    except BaseException:
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()
