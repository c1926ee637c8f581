"""All measurements on a machine with an NVIDIA GPU: `python tests/gpu/run_all.py --sections vit,pairs-vit`.

Every worker is a fresh process. Sections can be run by several commands one after the other: what the first workers
made is kept in the folder of `--state`, and is made again where it is missing. Prints tables; writes JSON to `--out`,
one file a section. Leaves no process behind.

section        what                                                                                   minutes on an H200
-------------  -------------------------------------------------------------------------------------  ------------------
resnet, vit,   a cold worker fills the bucket; the next ones pass --assert-warm: with another cache   2.5, 1.2, 1.2, 1
llama,         folder, with the first one's path wiped, and as another user who may not enter it
dynamic
pairs-vit      first call: local-warm against tritonsync, 15 pairs, interleaved                       6
pairs-resnet   ... 5 pairs                                                                            3
pairs-llama    ... 5 pairs                                                                            2
pairs-dynamic  ... 5 pairs                                                                            2
cold           cold first call of vit without and with tritonsync and uploads, 4 pairs                4
mega           Mega-Cache load and first call of resnet against tritonsync, 3 pairs                   2.5
maxauto        max-autotune-no-cudagraphs: what the second worker still compiles                      2
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu.pairs import paired_ratio
from tests.gpu.world import World, world

NOBODY = 65534


def fill(here: World, workload: str) -> dict[str, Any]:
    """Let cold workers fill the bucket of a workload, unless that was done."""
    done = here.state / f"{workload}.filled.json"
    if done.exists():
        known: dict[str, Any] = json.loads(done.read_text())
        return known
    # A folder that only its owner may enter: the usual case of root's cache and a reader who is not root.
    home = here.state / "caches" / "private"
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    cold = {}
    for rows in ([50], [200]) if workload == "dynamic" else ([],):
        cache = here.cache(f"private/{workload}-{'-'.join(map(str, rows))}")
        extra = ["--rows", *rows] if rows else []
        cold = here.run(workload, *extra, cache=cache, prefix=workload, watched=True)
        if "failed" in cold:
            return cold
    done.write_text(json.dumps(cold))
    return cold


def arguments(workload: str) -> list[object]:
    return ["--rows", 200, 50] if workload == "dynamic" else []


def warm_workers(here: World, workload: str) -> dict[str, Any]:
    """Fill the bucket, and see that other workers compile nothing."""
    cold = fill(here, workload)
    extra = arguments(workload)
    results = {"first": cold}
    results["other folder"] = here.run(
        workload, *extra, cache=here.cache(f"{workload}-other"), prefix=workload, watched=True
    )
    same = here.cache(f"private/{workload}-50" if workload == "dynamic" else f"private/{workload}-")
    results["same path, wiped"] = here.run(workload, *extra, cache=same, prefix=workload, watched=True)
    if os.geteuid() == 0:
        cache = here.cache(f"{workload}-nobody")
        for path in (cache, *cache.parents[:1]):
            path.chmod(0o755)
        os.chown(cache, NOBODY, NOBODY)
        open_up(here.state)
        results["another user"] = here.run(workload, *extra, cache=cache, prefix=workload, watched=True, user=NOBODY)
    header = (
        f"{'worker':<18} {'first call':>10} {'warm':>6} {'fx':>7} {'aot':>7} {'own s':>7} {'waited':>7} {'error':>9}"
    )
    print(f"\n== {workload}: a cold worker, and others\n{header}")
    for name, result in results.items():
        print(f"{name:<18} {row(result)}")
        for reason in result.get("reasons", [])[:8] if name != "first" else []:
            print(f"    {reason}")
    return results


def open_up(folder: Path) -> None:
    """Let everybody pass through a folder and those above it that we own."""
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055 if path == folder else path.stat().st_mode | 0o011)


def row(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"FAILED {result['failed']}"
    own = result.get("tritonsync", {})
    fx = f"{result['fx_hit']}/{result['fx_hit'] + result['fx_miss']}"
    aot = f"{result['aot_hit']}/{result['aot_hit'] + result['aot_miss']}"
    times = f"{own.get('own_s', 0):>7.3f} {own.get('waited_s', 0):>7.3f}"
    first, warm = f"{result['first_call_s']:>8.2f} s", str(result.get("warm", "-"))
    return f"{first} {warm:>6} {fx:>7} {aot:>7} {times} {result['error']:>9.6f}"


def local_warm_folder(here: World, workload: str) -> Path:
    """Return a folder that torch alone has filled."""
    folder = here.state / "caches" / f"{workload}-local"
    if not (here.state / f"{workload}.local").exists():
        cache = here.cache(f"{workload}-local")
        rows = [["--rows", 50], ["--rows", 200]] if workload == "dynamic" else [[]]
        for extra in rows:
            result = here.run(workload, *extra, cache=cache)
            if "failed" in result:
                raise SystemExit(f"{workload}: {result['failed']}")
        (here.state / f"{workload}.local").touch()
    return folder


def first_call_pairs(here: World, workload: str, pairs: int) -> dict[str, Any]:
    """Measure first calls, local-warm and from the bucket in turns; the first round is not counted."""
    fill(here, workload)
    local = local_warm_folder(here, workload)
    extra = arguments(workload)
    rounds: list[dict[str, Any]] = []
    failures = []
    for number in range(pairs + 1):
        measured: dict[str, Any] = {}
        ways = [("local", None), ("sync", workload)]
        for name, prefix in ways if number % 2 else reversed(ways):
            cache = local if prefix is None else here.cache(f"{workload}-pair-{number}")
            result = here.run(workload, *extra, cache=cache, prefix=prefix)
            measured[name] = result
            if "failed" in result:
                failures.append(result["failed"])
        if number and not any("failed" in result for result in measured.values()):
            rounds.append(measured)
    return compare(f"{workload}: first call, local-warm and from the bucket", rounds, "sync", "local", failures)


def cold_pairs(here: World, pairs: int) -> dict[str, Any]:
    """Measure cold first calls without tritonsync, and with an empty bucket and uploads."""
    rounds, failures = [], []
    for number in range(pairs + 1):
        measured: dict[str, Any] = {}
        for name in ("plain", "sync") if number % 2 else ("sync", "plain"):
            prefix = f"cold-{os.getpid()}-{number}" if name == "sync" else None
            measured[name] = here.run("vit", cache=here.cache(f"vit-cold-{number}-{name}"), prefix=prefix)
            if "failed" in measured[name]:
                failures.append(measured[name]["failed"])
        if number and not any("failed" in result for result in measured.values()):
            rounds.append(measured)
    return compare("vit: cold first call, without and with uploads", rounds, "sync", "plain", failures)


def mega_pairs(here: World, pairs: int) -> dict[str, Any]:
    """Measure Mega-Cache: loading its blob and the first call, against the first call from the bucket."""
    fill(here, "resnet")
    blob = here.state / "resnet.mega"
    if not blob.exists():
        here.run("resnet", "--save-mega", blob, cache=here.cache("resnet-mega"))
    rounds, failures = [], []
    for number in range(pairs + 1):
        measured: dict[str, Any] = {}
        for name in ("mega", "sync") if number % 2 else ("sync", "mega"):
            extra = ["--load-mega", blob] if name == "mega" else []
            cache = here.cache(f"resnet-mega-{number}-{name}")
            result = here.run("resnet", *extra, cache=cache, prefix=None if name == "mega" else "resnet")
            if "failed" in result:
                failures.append(result["failed"])
            else:
                result["first_call_s"] += result["load_s"]
            measured[name] = result
        if number and not any("failed" in result for result in measured.values()):
            rounds.append(measured)
    return compare("resnet: load and first call, Mega-Cache and from the bucket", rounds, "sync", "mega", failures)


def compare(title: str, rounds: list[dict[str, Any]], ours: str, theirs: str, failures: list[str]) -> dict[str, Any]:
    """Print and return the comparison of two ways, round by round."""
    print(f"\n== {title}: {len(rounds)} pairs")
    for failure in failures:
        print(f"FAILED {failure}")
    if not rounds:
        return {"failures": failures}
    times = {name: [each[name]["first_call_s"] for each in rounds] for name in (ours, theirs)}
    ratio, low, high = paired_ratio(times[ours], times[theirs])
    own = [each[ours]["tritonsync"].get("own_s", 0.0) for each in rounds]
    waited = [each[ours]["tritonsync"].get("waited_s", 0.0) for each in rounds]
    for name in (theirs, ours):
        found = times[name]
        print(f"{name:<8} median {statistics.median(found):7.3f} s   {min(found):7.3f} to {max(found):7.3f}")
    print(f"ratio    {ratio:.3f}, 95 % {low:.3f} to {high:.3f}")
    share = statistics.median(own) / statistics.median(times[theirs])
    print(
        f"own time median {statistics.median(own) * 1000:.1f} ms ({share:.1%} of {theirs}), "
        f"of it waiting {statistics.median(waited) * 1000:.1f} ms, at most {max(own) * 1000:.1f} ms"
    )
    return {"times": times, "ratio": [ratio, low, high], "own_s": own, "waited_s": waited, "failures": failures}


def max_autotune(here: World) -> dict[str, Any]:
    """See what a second worker still compiles under max-autotune."""
    return warm_workers(here, "max-autotune")


SECTIONS: dict[str, Callable[[World], dict[str, Any]]] = {
    "vit": lambda here: warm_workers(here, "vit"),
    "resnet": lambda here: warm_workers(here, "resnet"),
    "llama": lambda here: warm_workers(here, "llama"),
    "dynamic": lambda here: warm_workers(here, "dynamic"),
    "pairs-vit": lambda here: first_call_pairs(here, "vit", 15),
    "pairs-resnet": lambda here: first_call_pairs(here, "resnet", 5),
    "pairs-llama": lambda here: first_call_pairs(here, "llama", 5),
    "pairs-dynamic": lambda here: first_call_pairs(here, "dynamic", 5),
    "cold": lambda here: cold_pairs(here, 4),
    "mega": lambda here: mega_pairs(here, 3),
    "maxauto": max_autotune,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default="vit,resnet,llama,dynamic", help=", ".join(SECTIONS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--pairs", type=int, help="instead of the number of pairs in the table")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds added to each round trip")
    parser.add_argument("--state", type=Path, default=Path("/tmp/tritonsync-gpu"))
    parser.add_argument("--fresh", action="store_true", help="forget what earlier commands made")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(options.state, ignore_errors=True)
    chosen = [name.replace("max-autotune", "maxauto") for name in options.sections.split(",")]
    with world(options.state, device=options.device, tiny=options.tiny, latency=options.latency) as here:
        for name in chosen:
            started = time.monotonic()
            if options.pairs is not None and name.startswith("pairs-"):
                result = first_call_pairs(here, name.removeprefix("pairs-"), options.pairs)
            elif options.pairs is not None and name in ("cold", "mega"):
                result = (cold_pairs if name == "cold" else mega_pairs)(here, options.pairs)
            else:
                result = SECTIONS[name](here)
            print(f"({name}: {time.monotonic() - started:.0f} s)", flush=True)
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / f"{name}.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
