"""First calls with and without precompile, on a machine with a GPU: `python tests/gpu/precompile.py --models vit`.

Every worker is a fresh process, and the bucket is 20 ms away. A round runs each way once, in another order each time:

cold         an empty cache folder, no tritonsync
local-warm   a folder that torch alone has filled, no tritonsync
torch's own  the same with TORCH_CACHING_PRECOMPILE=1, filled by `torch.compiler.save_cache_artifacts`
tritonsync   an empty folder, the bucket of a worker before
precompile   the same with TRITONSYNC_PRECOMPILE=1, another bucket

The first round fills folders and buckets, and is printed but not counted. Each row is printed as it is measured, then a
table of medians, and what the report of `tritonsync run` says of each function. `error`: the distance from eager mode.
Ends with 1 if a number is wrong or a worker failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu.world import World, world

MODELS = ("vit", "resnet-inference", "resnet", "llama-8", "shapes", "handwritten")
WAYS = ("cold", "local-warm", "torch's own", "tritonsync", "precompile")
#: Of the relative distance from eager mode, in bfloat16 and float32.
TOLERANCE = 0.03


def once(here: World, model: str, way: str, number: int) -> dict[str, Any]:
    """Run one worker."""
    fresh = here.cache(f"{model}-{way.replace(' ', '-')}-{number}") if way in WAYS[0:1] + WAYS[3:] else None
    if way == "cold":
        return here.run(model, cache=fresh or Path())
    if way == "local-warm":
        return here.run(model, cache=here.state / "caches" / f"{model}-local")
    if way == "torch's own":
        cache = here.state / "caches" / f"{model}-own"
        # Saved once: each later start only reads.
        save = [] if number else ["--save-mega", here.state / "blob"]
        return here.run(model, *save, cache=cache, variables={"TORCH_CACHING_PRECOMPILE": "1"})
    if way == "tritonsync":
        return here.run(model, cache=fresh or Path(), prefix=f"{model}-plain")
    return here.run(
        model, cache=fresh or Path(), prefix=f"{model}-precompiled", variables={"TRITONSYNC_PRECOMPILE": "1"}
    )


def measure(here: World, model: str, rounds: int, cold: int) -> dict[str, Any]:
    """Measure a model, and print it."""
    print(
        f"\n== {model}\n{'round':>5} {'way':<12} {'first call':>10} {'own':>8} {'waited':>8} {'error':>9}", flush=True
    )
    for name in ("local", "own"):
        here.cache(f"{model}-{name}")
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    own: dict[str, list[float]] = {way: [] for way in WAYS}
    wrong: list[str] = []
    for number in range(rounds + 1):
        turn = number % len(WAYS)
        for way in (*WAYS[turn:], *WAYS[:turn]):
            if way == "cold" and not 1 <= number <= cold:
                continue
            result = once(here, model, way, number)
            if "failed" in result:
                print(f"{number:>5} {way:<12} FAILED {result['failed']}", flush=True)
                wrong.append(f"{way}: failed")
                continue
            counted = result.get("tritonsync", {})
            spent = counted.get("own_s", 0.0)
            print(
                f"{number:>5} {way:<12} {result['first_call_s']:>8.3f} s {spent * 1000:>5.0f} ms"
                f" {counted.get('waited_s', 0.0) * 1000:>5.0f} ms {result['error']:>9.6f}",
                flush=True,
            )
            if not result["error"] <= TOLERANCE:
                wrong.append(f"{way}: error {result['error']}")
            if number:
                times[way].append(result["first_call_s"])
                own[way].append(spent)
    seen = here.run(
        model,
        cache=here.cache(f"{model}-watched"),
        prefix=f"{model}-precompiled",
        watched=True,
        variables={"TRITONSYNC_PRECOMPILE": "1"},
    )
    told = seen.get("precompiled", [])
    base = statistics.median(times["local-warm"]) if times["local-warm"] else float("nan")
    for way, found in times.items():
        if found:
            middle = statistics.median(found)
            print(
                f"{way:<12} n {len(found)}, median {middle:7.3f} s ({min(found):.3f} to {max(found):.3f}),"
                f" {middle / base:.2f}x local-warm, own {statistics.median(own[way]) * 1000:.0f} ms"
            )
    for function in told:
        print(f"  {function['outcome']}: {function['name']} {function['reason']}")
    for each in wrong:
        print(f"WRONG {each}")
    return {"times": times, "own_s": own, "functions": told, "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", type=int, default=5, help="in how many of the rounds a cold worker runs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds added to each round trip")
    parser.add_argument("--state", type=Path, default=Path("/tmp/tritonsync-precompile"))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    options = parser.parse_args()
    shutil.rmtree(options.state, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    wrong = False
    with world(options.state, device=options.device, tiny=options.tiny, latency=options.latency) as here:
        for model in options.models.split(","):
            result = measure(here, model, options.rounds, options.cold)
            (options.out / f"precompile-{model}.json").write_text(json.dumps(result, indent=1))
            wrong = wrong or bool(result["wrong"])
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
