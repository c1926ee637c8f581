"""Writers, readers and a garbage collector on one bucket at once: `python -m tests.traffic --minutes 2 --url URL`.

Every bundle that a list names has to be there for whoever reads the list before it is too old, for as long as the grace
period lasts. A writer whose bundle was taken away puts it back a moment after its list has come, so who finds nothing
looks again for some seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable

from tests.bundles import make_bundle
from tritonsync import times
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_workload, workload_of_manifest
from tritonsync.remote.bucket import Bucket
from tritonsync.store import Store
from tritonsync.store.catalog import Catalog
from tritonsync.store.retention import Policy, mark
from tritonsync.store.sweep import missing_entries, sweep

KEYS, WORKLOADS = 12, 3
#: Seconds in which a writer puts back what its list names.
PATIENCE_S = 10.0


@dataclasses.dataclass
class Traffic:
    """What went on, and what went wrong.

    Attributes:
        seconds: how long.
        grace: seconds; what is not named goes, and a list does, when it is twice as old.
        counts: lists read and written, bundles loaded, removed, spared, published again, promises broken.
        errors: what was raised.
    """

    open_bucket: Callable[[], Bucket]
    seconds: float
    grace: float = 2.0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    errors: list[str] = dataclasses.field(default_factory=list)

    def run(self, writers: int = 4, readers: int = 4) -> None:
        """Run it, each thread with a bucket of its own."""
        # As far below the grace period as usual.
        usual = times.LONE_PACK_S
        times.LONE_PACK_S = usual * self.grace / times.GRACE_S
        end = time.monotonic() + self.seconds
        works = [self.write] * writers + [self.read] * readers + [self.collect]
        threads = [threading.Thread(target=self._loop, args=(work, number, end)) for number, work in enumerate(works)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        times.LONE_PACK_S = usual

    def _loop(self, work: Callable[[Store, random.Random], None], number: int, end: float) -> None:
        rng = random.Random(number)
        with self.open_bucket() as bucket:
            store = Store(bucket)
            while time.monotonic() < end:
                try:
                    work(store, rng)
                except Exception as exc:  # noqa: BLE001, PERF203 - counted
                    self.errors.append(f"{work.__name__}: {exc!r}")

    def write(self, store: Store, rng: random.Random) -> None:
        """Publish some bundles, then a list of them, as a run of a program does."""
        keys = rng.sample(range(KEYS), 4)
        entries = tuple(WorkloadEntry(kind="fx_graph", key=f"key{key}", variant="default") for key in sorted(keys))
        for entry in entries:
            store.publish(make_bundle(entry.key, kernels=2))
        time.sleep(rng.uniform(0, self.grace))  # the program runs, with what it found there
        listed = Workload(inductor_dir="/cache", entries=entries)
        store.publish_newest(bundle_of_workload(f"w{rng.randrange(WORKLOADS)}", listed), inline=(LIST,))
        for entry in missing_entries(store.bucket, entries):
            store.publish(make_bundle(entry.key, kernels=2))
            self.counts["published again"] += 1
        self.counts["lists written"] += 1

    def read(self, store: Store, rng: random.Random) -> None:
        """Read a list, and load what it names."""
        newest = store.load("workload", f"w{rng.randrange(WORKLOADS)}", newest=1, have=lambda _: True)
        for manifest in newest.present:
            # The variant counts seconds down, and is the clock's or less.
            is_promise = 9_999_999_999 - int(manifest.variant) >= time.time() - 2 * self.grace + 1
            until = time.monotonic() + self.grace
            for entry in workload_of_manifest(manifest).entries if is_promise else ():
                found = self._load(store, entry)
                if not found and time.monotonic() > until:
                    continue
                late = time.monotonic() + PATIENCE_S
                while not found and time.monotonic() < late:
                    time.sleep(0.05)
                    found = self._load(store, entry)
                    self.counts["loaded late"] += found
                self.counts["bundles loaded" if found else "promises broken"] += 1
            self.counts["lists read"] += 1

    def _load(self, store: Store, entry: WorkloadEntry) -> bool:
        return bool(store.load(entry.kind, entry.key, variants=(entry.variant,)).bundles)

    def collect(self, store: Store, rng: random.Random) -> None:
        """Collect garbage."""
        catalog = Catalog(store.bucket)
        swept = sweep(catalog, mark(catalog, Policy(older_than=2 * self.grace, grace=self.grace)))
        self.counts.update({"bundles removed": swept.bundles, "spared": swept.spared, "collections": 1})
        time.sleep(rng.uniform(0, 0.3))


def main() -> None:
    """Run it for so many minutes and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--url")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        traffic = Traffic(lambda: Bucket(given.url or f"{folder}/bucket"), given.minutes * 60)
        traffic.run()
    print(json.dumps({**traffic.counts, "errors": traffic.errors[:5]}, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
