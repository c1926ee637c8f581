"""Writers, readers and a garbage collector on one bucket at once: `python -m tests.traffic --minutes 2 --url URL`.

Every bundle that a list names has to be there for whoever reads the list, for as long as the grace period lasts.
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
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_workload, workload_of_manifest
from tritonsync.remote.bucket import Bucket
from tritonsync.store import Store
from tritonsync.store.catalog import Catalog
from tritonsync.store.retention import Policy, mark, missing_entries, sweep

KEYS, WORKLOADS = 12, 3


@dataclasses.dataclass
class Traffic:
    """What went on, and what went wrong.

    Attributes:
        seconds: how long.
        grace: seconds; also the age at which what is not named goes.
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
        end = time.monotonic() + self.seconds
        works = [self.write] * writers + [self.read] * readers + [self.collect]
        threads = [threading.Thread(target=self._loop, args=(work, number, end)) for number, work in enumerate(works)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

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
        found = store.load("workload", f"w{rng.randrange(WORKLOADS)}", newest=1, have=lambda _: True)
        for manifest in found.present:
            read_at = time.monotonic()
            for entry in workload_of_manifest(manifest).entries:
                loaded = store.load(entry.kind, entry.key, variants=(entry.variant,)).bundles
                if not loaded:
                    # Its writer may be looking for it at this moment.
                    time.sleep(0.5)
                    loaded = store.load(entry.kind, entry.key, variants=(entry.variant,)).bundles
                    self.counts["loaded late"] += bool(loaded)
                if loaded:
                    self.counts["bundles loaded"] += 1
                elif time.monotonic() - read_at < self.grace:
                    self.counts["promises broken"] += 1
            self.counts["lists read"] += 1

    def collect(self, store: Store, rng: random.Random) -> None:
        """Collect garbage."""
        catalog = Catalog(store.bucket)
        swept = sweep(catalog, mark(catalog, Policy(older_than=self.grace, grace=self.grace)))
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
