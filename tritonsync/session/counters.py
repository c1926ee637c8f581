"""What a session counts, and the one line that it says at exit."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator

__all__ = ["Counters", "Counts", "summary"]


@dataclasses.dataclass(frozen=True)
class Counts:
    """A moment's counters.

    Attributes:
        hits: lookups that were served from the bucket.
        local_hits: lookups that were served from what this host had already.
        misses: lookups that were not served.
        kernels_fetched: kernel folders written from the bucket.
        kernels_compiled: kernels of the graphs that were compiled here.
        conflicts: kernels whose folder on this host holds another build.
        published: bundles written to the bucket.
        dropped: uploads given up: the queue was full, the time at exit was over, or the bucket refused them.
        waited_s: seconds that the program waited for the bucket.
        saved_s: seconds of compilation that the hits stand for, as their writers measured it. Values with C++ code
            count nothing: torch compiles that again (torch/_inductor/codecache.py, CppCodeCache, 2.11 to 2.15), and
            their writers did not measure it apart.
        own_s: seconds spent in tritonsync on threads of the program, waiting included.
    """

    hits: int = 0
    local_hits: int = 0
    misses: int = 0
    kernels_fetched: int = 0
    kernels_compiled: int = 0
    conflicts: int = 0
    published: int = 0
    dropped: int = 0
    waited_s: float = 0.0
    saved_s: float = 0.0
    own_s: float = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing was asked and nothing was to be said."""
        return dataclasses.replace(self, own_s=0.0) == Counts()


class Counters:
    """Adds up, from many threads."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler may count while its own thread does.
        self._lock = threading.RLock()
        self._now = Counts()
        self._inside = threading.local()

    @property
    def now(self) -> Counts:
        """The counters at this moment."""
        return self._now

    def add(self, **more: float) -> None:
        """Add to the counters of these names."""
        with self._lock:
            now = self._now
            self._now = dataclasses.replace(now, **{name: getattr(now, name) + value for name, value in more.items()})

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        """Count the time of the block as our own, once however deep such blocks are nested."""
        if getattr(self._inside, "depth", 0):
            yield
            return
        self._inside.depth = 1
        started = time.perf_counter()
        try:
            yield
        finally:
            self._inside.depth = 0
            self.add(own_s=time.perf_counter() - started)


def summary(counts: Counts, *, bytes_down: int, bytes_up: int) -> str:
    """Return the line that is said at exit, without its speaker and a line end."""
    parts = [_amount(counts.hits, "hit")]
    if counts.local_hits:
        parts.append(_amount(counts.local_hits, "local hit"))
    parts += [
        _amount(counts.misses, "miss", "misses"),
        f"{_amount(counts.kernels_fetched, 'kernel')} fetched",
        f"{counts.kernels_compiled} compiled",
        f"{_size(bytes_down)} down",
        f"{_size(bytes_up)} up",
    ]
    if counts.published:
        parts.append(f"{_amount(counts.published, 'bundle')} published")
    if counts.conflicts:
        parts.append(f"{_amount(counts.conflicts, 'kernel')} in conflict")
    if counts.dropped:
        parts.append(f"{_amount(counts.dropped, 'upload')} dropped")
    times = [f"waited {counts.waited_s:.2f} s"]
    if counts.saved_s >= 1:
        times.append(f"saved about {_roughly(counts.saved_s)} s of compilation")
    times.append(f"{counts.own_s:.2f} s on the compiling thread")
    return f"{', '.join(parts)}; {', '.join(times)}"


def _roughly(seconds: float) -> str:
    """Return seconds to one or two digits: they were measured on another host, however busy that was."""
    return f"{float(f'{seconds:.2g}'):.0f}"


def _amount(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
