# ruff: noqa: T201
"""The same as `test_storm.py`, for as long as is asked for, with its table: `python -m tests.faults --minutes 30`."""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from tests.conftest import DATA
from tests.faults.storm import READERS, WRITERS, Counted, Storm, table
from tests.kernels import compile_kernels
from tests.servers import run_fakegcs, run_moto


def main() -> int:
    """Run a storm on S3 and one on GCS, one after the other, each for half of the time."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument("--readers", type=int, default=READERS)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--stores", default="s3,gcs", help="which of them share the time")
    given = parser.parse_args()
    rows: dict[str, Counted] = {}
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(DATA / "h200-vit-infer.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        [graphs] = Path(folder).rglob("fxgraph")
        kernels = compile_kernels(Path(folder) / "kernels").directory
        stores = given.stores.split(",")
        for name in stores:
            with {"s3": run_moto, "gcs": run_fakegcs}[name]() as server:
                storm = Storm(server, graphs.parent, kernels, given.seed)
                seconds = given.minutes * 60 / len(stores)
                rows[name] = storm.run(seconds, writers=given.writers, readers=given.readers)
            print("\n".join([table({name: rows[name]}), *rows[name].notes]), flush=True)
    print(f"seed {given.seed}")
    print(table(rows))
    return 1 if any(any(counted.failures.values()) for counted in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
