"""How long it takes to restore the kernels of a workload into an empty cache, beside other ways to do the same.

    python -m tests.bench.restore --cache CACHE [--rounds 7] [--latency-ms 20]

CACHE is an Inductor cache folder or an archive of one; its `triton/` folder is pushed to a real S3 server on loopback
(`rclone serve s3`), which is then reached through a proxy that adds the latency to every round trip. The ways are
interleaved, each into a fresh folder on tmpfs, and removed at the end. `floor` is what any way has to do: one listing,
one GET of the pack, writing the files. `pull` is the command in a process of its own, imports included.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import s3fs
import zstandard

from tests.bench.caches import FIXTURE, fixture
from tests.bench.programs import other_programs
from tests.faultproxy import FaultProxy
from tests.servers import Place, Server, run_rclone
from tritonsync.remote.bucket import Bucket
from tritonsync.store import Store
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import pull
from tritonsync.sync.push import push

Way = Callable[[Path], None]
TMPFS = "/dev/shm"
#: Programs that are installed are compiled, whatever the variables of whoever measures say.
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}


def main() -> None:
    """Print one line a way: median, spread, and its ratio to ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=FIXTURE)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.latency_ms / 1000)
        return
    with tempfile.TemporaryDirectory(dir=TMPFS) as scratch, contextlib.ExitStack() as stack:
        cache = given.cache if given.cache.is_dir() else fixture(Path(scratch) / "cache", given.cache)
        kernels = Path(scratch) / "kernels"
        kernels.mkdir()
        (kernels / "triton").symlink_to(cache / "triton")
        server = stack.enter_context(run_rclone(Path(scratch) / "server"))
        direct = server.at("bucket", "bench")
        pushed = push(
            Store(Bucket(direct.url, storage_options=direct.options)),
            LocalCaches.at(kernels),
            kernels / "triton",
            "bench",
        )
        endpoint = stack.enter_context(slow(server, given.latency_ms))
        place = server.at("bucket", "bench", endpoint=endpoint)
        ways = {
            "tritonsync": in_process(place),
            "floor": floor(place),
            "s5cmd cp": program("s5cmd", place),
            "rclone copy": program("rclone", place),
            "fsspec get": fsspec_get(place),
            "aws s3 cp": program("aws", place),
            "pull (command)": command(place),
        }
        times = measure({name: way for name, way in ways.items() if way is not None}, given.rounds, Path(scratch))
        report(times, f"{pushed.kernels} kernels, {given.latency_ms:g} ms a round trip, {given.rounds} rounds")


def measure(ways: dict[str, Way], rounds: int, scratch: Path) -> dict[str, list[float]]:
    """Run every way once a round, in a fresh folder; the first round warms up and is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    files: dict[str, int] = {}
    for number in range(rounds + 1):
        for name, way in ways.items():
            target = scratch / f"{number} {name}".replace(" ", "-")
            target.mkdir()
            began = time.perf_counter()
            way(target)
            took = time.perf_counter() - began
            if number:
                times[name].append(took)
            files[name] = sum(path.is_file() and not path.name.endswith(".lock") for path in target.rglob("*"))
    if len(set(files.values())) != 1:
        sys.exit(f"the ways did not restore the same files: {files}")
    print(f"{next(iter(files.values()))} files each")
    return times


def report(times: dict[str, list[float]], title: str) -> None:
    """Print a table, and the same as one line of JSON."""
    ours = statistics.median(times["tritonsync"])
    print(title)
    print(f"{'way':16} {'median s':>9} {'min':>7} {'max':>7} {'ours / it':>10}")
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:16} {median:9.3f} {min(taken):7.3f} {max(taken):7.3f} {ours / median:10.2f}")
    print(json.dumps({name: [round(one, 4) for one in taken] for name, taken in times.items()}))


def in_process(place: Place) -> Way:
    """`tritonsync`: the store, imports and connection done, as in a program that is starting."""
    store = Store(Bucket(place.url, storage_options=place.options))
    store.load("workload", "nothing")

    def way(target: Path) -> None:
        pulled = pull(store, LocalCaches.at(target, target, by_device=False), "bench")
        assert pulled.kernels_emitted == pulled.kernels

    return way


def floor(place: Place) -> Way:
    """`floor`: one listing, one GET, unfold, write."""
    client = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, **place.options)
    client.connect()
    root = place.url.removeprefix("s3://") + "/bundles/workload"

    def way(target: Path) -> None:
        found = client.find(root, prefix="bench/", detail=True)
        [pack] = [name for name in found if name.endswith("pack.tar.zst")]
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(client.cat_file(pack, max_concurrency=1))).read()
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                assert stream is not None
                parts = member.name.split("/")
                folder = f"{target}/{parts[1]}"
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder)
                with open(f"{folder}/{parts[3]}", "wb") as file:
                    file.write(stream.read())

    return way


def fsspec_get(place: Place) -> Way:
    """`fsspec get`: what a line of Python does."""
    client = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, **place.options)
    client.connect()
    source = place.url.removeprefix("s3://") + "/kernels/"
    return lambda target: client.get(source, f"{target}/", recursive=True)


def fsspec_put(place: Place, source: Path) -> Callable[[], object]:
    """`fsspec put`: the way back."""
    client = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, **place.options)
    client.connect()
    target = place.url.removeprefix("s3://") + "/kernels/"
    return lambda: client.put(f"{source}/triton/0/", target, recursive=True)


def command(place: Place) -> Way:
    """`tritonsync pull`, a process of its own."""
    options = ["--url", place.url, "--workload", "bench", "--json"]

    def way(target: Path) -> None:
        arguments = [*options, "--inductor-dir", str(target), "--triton-dir", str(target)]
        run([sys.executable, "-m", "tritonsync", "pull", *arguments], place)

    return way


def program(name: str, place: Place) -> Way | None:
    """Run another program, if it is here."""
    found = other_programs("restore").get(name)
    return None if found is None else lambda target: run(found.command(place, target), place)


def run(arguments: list[str], place: Place) -> None:
    done = subprocess.run(
        arguments, env={**os.environ, **COMPILED, **place.environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{arguments} failed: {done.stderr[-2000:]}")


@contextlib.contextmanager
def slow(server: Server, latency_ms: float) -> Iterator[str]:
    """Run the proxy as a process of its own, so that it takes no time of ours, and yield its address."""
    with slow_proxy(server, latency_ms) as proxy:
        yield proxy.url


class SlowProxy:
    """The proxy in a process of its own."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.url = url
        self._process = process

    def requests(self) -> int:
        """Return how many requests came since this was last asked."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def slow_proxy(server: Server, latency_ms: float) -> Iterator[SlowProxy]:
    """Run it."""
    arguments = [
        sys.executable,
        "-m",
        "tests.bench.restore",
        "--serve",
        server.endpoint,
        "--latency-ms",
        str(latency_ms),
    ]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        if not endpoint:
            sys.exit("the proxy did not start")
        yield SlowProxy(endpoint, process)
        process.terminate()


def serve(endpoint: str, latency: float) -> None:
    """Run the proxy until stdin ends; each line there is answered with the number of requests since the last one."""
    with FaultProxy(endpoint, latency=latency) as proxy:
        print(proxy.url, flush=True)
        for _ in sys.stdin:
            print(proxy.count(), flush=True)
            proxy.clear()


if __name__ == "__main__":
    main()
