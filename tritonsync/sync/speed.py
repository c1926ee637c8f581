"""How fast a bucket is from here: what `tritonsync bench` does.

A sample of made-up kernels is published below a prefix of its own, restored into a temporary folder, and deleted. The
user's own bundles are neither read nor touched.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import random
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tritonsync.errors import AccessDeniedError, RemoteError
from tritonsync.format.bundle import Bundle, Payload
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.remote.bucket import Bucket
from tritonsync.remote.engine import Engine
from tritonsync.remote.threads import Progress, in_parallel
from tritonsync.store import Store
from tritonsync.sync.caches import LocalCaches, restore

__all__ = ["KERNELS", "Speed", "prefix_for_sample", "speed"]

#: Kernels of the sample: what one graph of a model has.
KERNELS = 24
#: Requests that the latency is taken from.
ASKED = 9
#: Seconds a request from which on a start is slow because of the way to the bucket.
FAR_S = 0.08
#: Seconds for the sample from which on it is slow because of the line.
SLOW_S = 1.0
_STEPS = 4
DELETES_AT_ONCE = 16

#: Bytes that an object may have which nobody has written.
_NOTHING = 1


@dataclasses.dataclass(frozen=True)
class Speed:
    """What was measured; times in seconds, None for what could not be tried.

    Attributes:
        engine: the client, and why it was taken.
        first: the first request: client, connection, credentials.
        latency: a small request, median.
        latency_worst: the slowest of them.
        publish: the sample, until it can be loaded without its pack.
        restore: the sample, into an empty folder.
        kernels: of the sample.
        bytes_up: its objects.
        bytes_down: what a restore of it fetched.
        requests: of a restore.
        create_only: whether the bucket keeps the first of two objects of one name.
        left: objects of the sample that could not be deleted.
        advice: one or two lines.
    """

    engine: Engine
    first: float
    latency: float
    latency_worst: float
    publish: float | None = None
    restore: float | None = None
    kernels: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    requests: int = 0
    create_only: bool | None = None
    left: int = 0
    advice: tuple[str, ...] = ()


def prefix_for_sample() -> str:
    """Return the name of a prefix that nobody has: the sample lies below it."""
    return f"tritonsync-bench-{uuid.uuid4().hex[:12]}"


def speed(open_bucket: Callable[[], Bucket], *, write: bool = True, progress: Progress | None = None) -> Speed:
    """Measure a bucket.

    Args:
        open_bucket: opens the place for the sample; called twice, because a first connection is measured.
        write: False: nothing is published, so only requests are measured; a refused write does the same.
        progress: called with (done, all) steps.

    Raises:
        RemoteError: the bucket could not be asked, or refused a write; what was written by then is deleted.
    """
    done = progress or (lambda _done, _all: None)
    with open_bucket() as bucket:
        first = _timed(lambda: bucket.get("nothing", limit=_NOTHING))
        done(1, _STEPS)
        asked = [_timed(lambda: bucket.get("nothing", limit=_NOTHING)) for _ in range(ASKED)]
        found = Speed(bucket.engine, first, statistics.median(asked), max(asked))
        done(2, _STEPS)
        if write:
            with contextlib.suppress(AccessDeniedError):
                bucket.create("object", b"1")
                found = _with_sample(found, bucket, open_bucket, done)
    return dataclasses.replace(found, advice=tuple(_advice(found))[:2])


def _with_sample(found: Speed, bucket: Bucket, open_bucket: Callable[[], Bucket], done: Progress) -> Speed:
    """Publish the sample, restore it and delete it."""
    store, sample = Store(bucket), _sample()
    left = 0
    try:
        publish = _timed(lambda: store.complete(store.publish(sample)))
        bytes_up = bucket.stats.bytes_up
        create_only = not bucket.create("object", b"2")
        done(3, _STEPS)
        with open_bucket() as other, tempfile.TemporaryDirectory(prefix="tritonsync-") as folder:
            other.get("nothing", limit=_NOTHING)
            before = other.stats
            restored = _timed(lambda: _restore(Store(other), sample, Path(folder)))
            after = other.stats
    finally:
        left = _delete(bucket)
    done(4, _STEPS)
    return dataclasses.replace(
        found,
        publish=publish,
        restore=restored,
        kernels=len(sample.kernels),
        bytes_up=bytes_up,
        bytes_down=after.bytes_down - before.bytes_down,
        requests=after.requests - before.requests,
        create_only=create_only,
        left=left,
    )


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _restore(store: Store, sample: Bundle, folder: Path) -> None:
    found = store.load(sample.kind, sample.key)
    caches = LocalCaches.at(folder)
    emitted = sum(restore(loaded.bundle, caches).emitted for loaded in found.bundles)
    if emitted != len(sample.kernels):
        raise RemoteError(
            f"{store.bucket.url}: of {len(sample.kernels)} kernels that were published a moment ago, {emitted} came "
            "back; `tritonsync verify` tells what the bucket does with objects",
            url=store.bucket.url,
        )


def _delete(bucket: Bucket) -> int:
    """Delete everything below the sample's prefix; return how many objects are left."""

    def gone(name: str) -> bool:
        with contextlib.suppress(AccessDeniedError):
            bucket.delete(name)
            return True
        return False

    names = list(bucket.list())
    # One first: where the right to delete is missing, the others would be refused as well.
    deleted = len(names) if not names else int(gone(names[0]))
    if names and deleted:
        deleted += sum(in_parallel(gone, names[1:], DELETES_AT_ONCE).values())
        if deleted == len(names) and Path(bucket.url).is_dir():
            shutil.rmtree(bucket.url, ignore_errors=True)
    return len(names) - deleted


def _advice(found: Speed) -> Iterator[str]:
    """Yield what the user could do, most important first."""
    good = True
    if found.left:
        yield "this identity may not delete: let the bucket expire what is left, or delete it as its owner"
    if found.latency > FAR_S:
        good = False
        yield (
            f"a request takes {found.latency * 1000:.0f} ms, and a start waits for four or more in a row: keep the "
            "bucket in the region of the machines"
        )
    elif found.restore is not None and found.restore > SLOW_S:
        good = False
        yield f"{found.bytes_down / found.restore / 1e6:.1f} MB/s came down: the line is what a start waits for"
    if found.engine.reason == "obstore is not installed":
        good = False
        yield "pip install 'tritonsync[fast]' makes the first request and each further one cheaper"
    if found.create_only is False:
        yield "the server replaces objects that exist: right all the same, but workers that start together write twice"
    if good:
        yield "nothing stands in the way of a fast start"


def _sample() -> Bundle:
    """Make a bundle as large as that of a graph: text that compresses, and binaries that do not."""
    noise = random.Random(uuid.uuid4().int)  # noqa: S311 - no secret
    return Bundle(
        kind="fx_graph",
        key=f"bench-{uuid.uuid4().hex}",
        variant="default",
        kernels=tuple(_kernel(number, noise) for number in range(KERNELS)),
        payloads=(Payload("fx_value.skeleton", noise.randbytes(20_000)),),
    )


def _kernel(number: int, noise: random.Random) -> Kernel:
    name = f"sample_{number}"
    text = "".join(f"%{line} = tt.load %arg{line % 7} : tensor<1024xf32>\n" for line in range(400)).encode()
    files: Mapping[str, bytes] = {
        f"{name}.cubin": noise.randbytes(16_000),
        f"{name}.json": json.dumps({"name": name, "num_warps": 4, "shared": 0}).encode(),
        f"{name}.ptx": text,
        f"{name}.ttgir": text[: len(text) // 2],
        f"{name}.ttir": text[: len(text) // 3],
    }
    group = {"child_paths": {file: f"[REPLACE]/{file}" for file in files}}
    members = {**files, f"__grp__{name}.json": json.dumps(group).encode()}
    digest = hashlib.sha256(members[f"{name}.cubin"]).digest()
    return Kernel(
        hash=base64.b32encode(digest).decode().rstrip("="),
        device=0,
        files=tuple(KernelFile(file, data) for file, data in members.items()),
    )
