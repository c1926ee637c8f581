"""One thing done in a process of its own, and what it cost there: called by `python -m tests.bench`.

    python -m tests.bench.one ACTION PLACE FOLDER

ACTION is `restore`, `publish`, `verify`, `contact`, `floor`, `get` or `put`; PLACE a `tests.servers.Place` as JSON.
Prints JSON: seconds and CPU seconds of the action alone, imports and connection done before (`contact` is just these),
bytes from and to the bucket, and the most memory that the process had. TRITONSYNC_ENGINE says which client.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritonsync.remote.bucket import Bucket


def cpu() -> float:
    """Return the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mb() -> float:
    """Return the most memory that this process had; ru_maxrss would count what its parent had when it was forked."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def prepared(action: str, described: dict[str, Any], folder: Path, bucket: Bucket) -> Callable[[], object]:
    """Import, connect, and return what is to be measured."""
    if action in ("floor", "get", "put"):
        from tests.bench import restore
        from tests.servers import Place

        place = Place(**described)
        if action == "put":
            return restore.fsspec_put(place, folder)
        way = restore.floor(place) if action == "floor" else restore.fsspec_get(place)
        return lambda: way(folder)
    from tritonsync.store import Store
    from tritonsync.store.catalog import Catalog
    from tritonsync.store.verify import verify
    from tritonsync.sync.caches import LocalCaches
    from tritonsync.sync.pull import pull
    from tritonsync.sync.push import push

    store = Store(bucket)
    store.load("workload", "nothing")
    caches = LocalCaches.at(folder)
    if action == "restore":
        return lambda: check(pull(store, caches, "bench").missing == ())
    if action == "publish":
        return lambda: check(push(store, caches, folder / "triton", "bench").kernels > 0)
    return lambda: check(verify(Catalog(bucket, trust=store.trust)).bad == ())


def check(good: bool) -> None:
    """End with an error if it is not."""
    if not good:
        sys.exit("it did not do what it should")


def main(action: str, described: dict[str, Any], folder: Path) -> dict[str, float]:
    """Do it, and return what it cost."""
    before, began = cpu(), time.perf_counter()
    from tritonsync.remote.bucket import Bucket

    bucket = Bucket(described["url"], storage_options=described["options"])
    if action == "contact":
        bucket.get("nothing", limit=1)
    else:
        measured = prepared(action, described, folder, bucket)
        before, began = cpu(), time.perf_counter()
        measured()
    took, used = time.perf_counter() - began, cpu() - before
    stats = bucket.stats
    return {"seconds": took, "cpu": used, "peak_mb": peak_mb(), "bytes": stats.bytes_down + stats.bytes_up}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))))
