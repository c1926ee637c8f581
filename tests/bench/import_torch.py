"""How long `import torch` takes with tritonsync installed: without a URL, and with one.

    python -m tests.bench.import_torch [--rounds 20] [--url s3://bucket/prefix]

Prints medians of interleaved fresh processes, measured inside each around the import alone, in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
MEASURE = "import time; t = time.perf_counter(); import torch; print(time.perf_counter() - t)"
ENTRY_POINT = "[torch.backends]\ntritonsync = tritonsync.plugins.autoload:activate\n"


def site(folder: Path) -> Path:
    """Make a folder for sys.path by which an interpreter sees tritonsync installed."""
    info = folder / "tritonsync-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tritonsync\nVersion: 0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINT)
    return folder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--url", help="default: a folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("TRITONSYNC_")}
        installed = {**plain, "PYTHONPATH": os.pathsep.join([str(site(Path(scratch, "site"))), str(ROOT)])}
        with_url = {**installed, "TRITONSYNC_URL": options.url or str(Path(scratch, "bucket"))}
        ways = {"not installed": plain, "installed, no URL": installed, "installed, URL set": with_url}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name, environ in ways.items():
                done = subprocess.run(
                    [sys.executable, "-c", MEASURE],
                    env=environ,
                    cwd=scratch,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise SystemExit(f"{name}: {done.stderr}")
                if number:
                    times[name].append(float(done.stdout) * 1000)
    reference = statistics.median(times["not installed"])
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name:<20} median {median:8.1f} ms   {median - reference:+7.1f} ms   fastest {min(found):8.1f} ms")


if __name__ == "__main__":
    main()
