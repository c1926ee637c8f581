"""Hostile bytes for everything that reads what a bucket holds: `python -m tests.fuzz --seconds 60`.

Real values, manifests, packs and lists are changed at random, as bytes and, where they are JSON, as JSON; where the
package `atheris` is installed (it is made for few versions of Python) it chooses the changes by the code that they
reach. A reader may accept, or raise a `FormatError`; another exception, more than two seconds for an input of at most
some megabytes, or more memory than the limit of the process is a find. It is printed with the input's file.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import importlib
import json
import os
import random
import resource
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from tritonsync.errors import FormatError
from tritonsync.format import manifest as manifests
from tritonsync.format import pack as packs
from tritonsync.format import value as values
from tritonsync.format.bundle import Bundle, Digest
from tritonsync.format.facts import read_facts
from tritonsync.format.kernel import Kernel
from tritonsync.format.manifest import Environment, Manifest
from tritonsync.format.pickle_reader import read
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_workload, workload_of_manifest

DATA = Path(__file__).parent / "data"
#: Seconds that one input may take; shared hosts are slow.
SLOW_S = 2.0
#: Address space of the whole process: the corpora, Python, and one input that blows up to no more than this.
MEMORY = 4 * 1024**3
ENVIRONMENT = Environment(torch="2.13.0", triton="3.6.0", python="3.11.7", target="cuda:90")


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader, and real inputs for it.

    Attributes:
        name: of the reader.
        run: reads an input.
        seeds: inputs that it accepts.
        is_json: whether they are JSON documents.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: list[bytes]
    is_json: bool = False


def targets() -> Iterator[Target]:
    """Yield every reader with its corpus."""
    pickles = list(_values())
    bundles = [values.bundle_of_value("fx_graph", f"f{number}", value) for number, value in enumerate(pickles)]
    described = [_describe(bundle) for bundle in bundles]
    listed = bundle_of_workload("run", Workload(inductor_dir="/cache", entries=tuple(_entries())))
    workload, _ = _describe(listed, inline=frozenset({LIST}))
    documents = [manifests.encode(manifest) for manifest, _ in described] + [manifests.encode(workload)]
    yield Target("manifest", lambda data: manifests.decode(data, "bundles/x/manifest.json"), documents, is_json=True)
    yield Target("workload", lambda data: _read_workload(workload, data), [listed.payloads[0].data], is_json=True)
    yield Target("pickle", _read_value, pickles)
    smallest = min(described, key=lambda pair: len(pair[1]) if pair[0].kernels else sys.maxsize)
    yield Target("pack", lambda data: _read_pack(smallest[0], data), [smallest[1]])
    archive = zstandard.decompress(smallest[1])
    yield Target("archive", lambda data: _read_pack(smallest[0], zstandard.compress(data)), [archive])
    kernels = [kernel for bundle in bundles for kernel in bundle.kernels]
    skeletons = [bundle.payloads[0].data for bundle in bundles]
    yield Target("skeleton", lambda data: _join(data, kernels), skeletons)


def _values() -> Iterator[bytes]:
    for archive in sorted(DATA.glob("*.tar.xz")):
        with tarfile.open(archive) as members:
            for member in members:
                content = members.extractfile(member) if member.isfile() else None
                if content is not None and any(part in member.name for part in ("fxgraph/", "aotautograd/")):
                    yield content.read()


def _entries() -> Iterator[WorkloadEntry]:
    for number in range(40):
        yield WorkloadEntry(kind="fx_graph", key=f"f{number:050}", variant=f"{number:016x}")
    yield WorkloadEntry(kind="pgo", key="job:0:tag", variant="7777777777")
    yield WorkloadEntry(kind="triton", key="H" * 52, variant="NVIDIA-H200")


def _describe(bundle: Bundle, inline: frozenset[str] = frozenset()) -> tuple[Manifest, bytes]:
    pack = b"" if inline else packs.encode(bundle)
    digest = None if inline else Digest(size=len(pack), sha256=hashlib.sha256(pack).hexdigest())
    created = "2026-11-23T03:44:55Z"
    return manifests.describe(bundle, created=created, environment=ENVIRONMENT, pack=digest, inline=inline), pack


def _read_workload(manifest: Manifest, data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    workload_of_manifest(msgspec.structs.replace(manifest, inline={LIST: text}))


def _read_value(data: bytes) -> None:
    read(data)
    values.facts_of_value(data)
    parts = values.split(data)
    if values.join(parts.skeleton, parts.kernels) != data:
        raise AssertionError("what was split is not what is joined")
    read_facts(data)


def _read_pack(manifest: Manifest, data: bytes) -> None:
    # Sealed again, so that what is behind the checksum is reached.
    sealed = Digest(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    packs.decode(data, msgspec.structs.replace(manifest, pack=sealed))


def _join(data: bytes, kernels: list[Kernel]) -> None:
    values.join(data, kernels)


# ---- changes ----------------------------------------------------------------------------------------------------

_NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
_HOSTILE: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 2**63,
    lambda: 2**70,
    lambda: 10**5000 if sys.version_info < (3, 10, 7) else 10**4000,
    lambda: 1e308,
    lambda: "",
    lambda: "\0",
    lambda: "../..",
    lambda: "\ud800",
    lambda: "x" * 5000,
    lambda: "x" * 1_000_000,
    list,
    dict,
    lambda: [[[[]]]],
    lambda: {"x": 1},
    lambda: [{}] * 1000,
]


def changed_bytes(data: bytes, choose: random.Random) -> bytes:
    """Change some bytes: flipped, inserted, removed, repeated, or set to a number that is often a limit."""
    out = bytearray(data)
    for _ in range(choose.choice((1, 1, 2, 4, 16))):
        at, size = choose.randrange(len(out) + 1), choose.choice((1, 2, 4, 8, 100, 4096))
        how = choose.randrange(6)
        if how == 0 and at < len(out):
            out[at] ^= 1 << choose.randrange(8)
        elif how == 1:
            out[at:at] = choose.randbytes(size)
        elif how == 2:
            del out[at : at + size]
        elif how == 3:
            out[at:at] = out[at : at + size] * choose.choice((1, 2, 100))
        elif how == 4:
            out[at : at + 8] = choose.choice(_NUMBERS).to_bytes(8, choose.choice(("little", "big")))
        else:
            out = out[:at]
    return bytes(out)


def changed_json(data: bytes, choose: random.Random) -> bytes:
    """Put something hostile in the place of one value, or of one key, of a JSON document."""
    document = json.loads(data)
    holders = list(_holders(document))
    for _ in range(choose.choice((1, 1, 2))):
        holder = choose.choice(holders)
        if isinstance(holder, list):
            at: Any = choose.randrange(len(holder) + 1)
            holder[at : at + choose.randrange(2)] = [choose.choice(_HOSTILE)()]
        else:
            at = choose.choice([*holder, "x"])
            if choose.randrange(4):
                holder[at] = choose.choice(_HOSTILE)()
            else:
                holder.pop(at, None)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=choose.random() < 0.9)
    if choose.random() < 0.05:
        at = choose.randrange(len(text))
        text = text[:at] + choose.choice("[{") * 200_000 + text[at:]
    return text.encode("utf-8", "replace")


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, dict)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


# ---- running ----------------------------------------------------------------------------------------------------


class Tally:
    """What happened so far."""

    def __init__(self, finds: Path) -> None:
        self.finds = finds
        self.count: collections.Counter[str] = collections.Counter()
        self.outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
        self.slowest: dict[str, float] = {}
        self.found: dict[str, Path] = {}

    def run(self, target: Target, data: bytes) -> None:
        """Run one input and note how it ended."""
        began = time.process_time()
        find = ""
        try:
            target.run(data)
            outcome = "accepted"
        except FormatError as exc:
            outcome = type(exc).__name__
            if len(str(exc)) > 2000:
                find = f"{target.name}: a message of {len(str(exc))} characters"
        except Exception as exc:  # noqa: BLE001 - that is what is looked for
            outcome = type(exc).__name__
            last = traceback.extract_tb(exc.__traceback__)[-1]
            find = f"{target.name}: {outcome} at {Path(last.filename).name}:{last.lineno}"
        took = time.process_time() - began
        if took > SLOW_S:
            find = find or f"{target.name}: slow"
        self.count[target.name] += 1
        self.outcomes[target.name, outcome] += 1
        self.slowest[target.name] = max(took, self.slowest.get(target.name, 0.0))
        if find and find not in self.found:
            self.found[find] = self.finds / hashlib.sha256(data).hexdigest()[:16]
            self.found[find].write_bytes(data)

    def report(self) -> str:
        """Return the summary."""
        lines = []
        for name, count in self.count.items():
            outcomes: Mapping[str, int] = {o: n for (target, o), n in self.outcomes.items() if target == name}
            shown = ", ".join(f"{outcome} {n}" for outcome, n in sorted(outcomes.items(), key=lambda item: -item[1]))
            lines.append(f"{name}: {count} executions, slowest {self.slowest[name]:.2f} s; {shown}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        lines.append(f"{sum(self.count.values())} executions, peak memory {peak:.0f} MB, {len(self.found)} finds")
        return "\n".join([*lines, *(f"FOUND {find}: {path}" for find, path in self.found.items())])


def fuzz(chosen: list[Target], seconds: float, seed: int, finds: Path) -> Tally:
    """Change inputs at random for so many seconds."""
    tally, choose, end = Tally(finds), random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        for target in chosen:
            data = choose.choice(target.seeds)
            if target.is_json and choose.random() < 0.7:
                data = changed_json(data, choose)
            else:
                data = changed_bytes(data, choose)
            tally.run(target, data)
    return tally


def fuzz_with_atheris(target: Target, seconds: float, seed: int, finds: Path) -> Tally:
    """Let atheris choose the changes for so many seconds; it knows one target at a time."""
    atheris = importlib.import_module("atheris")
    tally = Tally(finds)
    atheris.instrument_all()
    end = time.monotonic() + seconds

    def one(data: bytes) -> None:
        tally.run(target, data)
        if time.monotonic() > end:
            sys.stdout.write(tally.report() + "\n")
            sys.stdout.flush()
            os._exit(bool(tally.found))  # atheris takes any other end for a find

    corpus = finds / f"corpus-{target.name}"
    corpus.mkdir()
    for number, data in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(data)
    atheris.Setup([sys.argv[0], f"-seed={seed}", f"-max_len={1 << 20}", "-rss_limit_mb=4096", str(corpus)], one)
    atheris.Fuzz()
    return tally


def main() -> int:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description="Feed hostile bytes to the readers of the bucket's format.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="manifest, workload, pickle, pack, archive, skeleton")
    parser.add_argument("--atheris", action="store_true", help="one --target; needs the package")
    given = parser.parse_args()
    chosen = [target for target in targets() if not given.target or target.name in given.target]
    finds = Path(tempfile.mkdtemp(prefix="tritonsync-fuzz-"))
    if given.atheris:
        fuzz_with_atheris(chosen[0], given.seconds, given.seed, finds)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    tally = fuzz(chosen, given.seconds, given.seed, finds)
    sys.stdout.write(tally.report() + "\n")
    return bool(tally.found)


if __name__ == "__main__":
    sys.exit(main())
