"""First calls with and without precompile, on a machine with a GPU: `python tests/gpu/precompile.py --models vit`.

Each worker is a process of its own, and the bucket is 20 ms away. Workers are forked from a process that has imported
torch, timm and transformers, and has done nothing else (`forked.py`, `--imports ""`: none is; `--fresh`: some are not,
for comparison). The workers of a round set up their programs side by side, then each makes its first call while all
others wait, in another order each time, and at last they compare their numbers with eager mode's. A round has:

local-warm   a folder that torch alone has filled, no tritonsync
torch's own  the same with TORCH_CACHING_PRECOMPILE=1, filled by `torch.compiler.save_cache_artifacts`
tritonsync   an empty folder, the bucket of a worker before
precompile   the same with TRITONSYNC_PRECOMPILE=1, another bucket

Folders and buckets are filled by cold workers, one of each way, side by side: what they took is not counted. Those of
`--alone` have the machine for themselves: what a cold first call takes with uploads on, and how much of it is ours.
Each row is printed as it is measured, then a table of medians, and what the report of `tritonsync run` says of each
function. `error`: the distance from eager mode; `ahead`: how many results of precompile were in place before the first
call. Ends with 1 if a number is wrong or a worker failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu.pairs import paired_ratio
from tests.gpu.world import Gated, World, world

MODELS = ("vit", "llama-8", "resnet-inference", "shapes", "handwritten", "resnet")
WAYS = ("local-warm", "torch's own", "tritonsync", "precompile")
#: Of the relative distance from eager mode, in bfloat16 and float32.
TOLERANCE = 0.03
#: Seconds that are kept for what has begun, and for the tables.
_RESERVE_S = 35.0
_OWN = {"TORCH_CACHING_PRECOMPILE": "1"}
_PRECOMPILE = {"TRITONSYNC_PRECOMPILE": "1"}
_HEAD = (
    f"{'round':>12} {'model':<17} {'way':<12} {'first call':>10} {'own':>8} {'waited':>8} {'error':>9}"
    f" {'set-up':>7} {'its turn':>8} {'ahead':>5}"
)


class Measured:
    """The rows, printed as they come.

    Attributes:
        rounds: model -> way -> number of a round -> what its worker said.
        functions: model -> what the report says of its functions.
        others: rows that are not counted.
        wrong: what is not as it should be.
    """

    def __init__(self) -> None:
        self.rounds: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
        self.functions: dict[str, list[dict[str, str]]] = {}
        self.others: list[dict[str, Any]] = []
        self.wrong: list[str] = []

    def add(self, number: int | str, model: str, way: str, result: dict[str, Any]) -> None:
        """Print a row; one with a number is counted."""
        if "failed" in result:
            print(f"{number:>12} {model:<17} {way:<12} FAILED {result['failed']}", flush=True)
            self.wrong.append(f"{model}, {way}: failed")
            return
        counted = result.get("tritonsync", {})
        print(
            f"{number:>12} {model:<17} {way:<12} {result['first_call_s']:>8.3f} s"
            f" {counted.get('own_s', 0.0) * 1000:>5.0f} ms {counted.get('waited_s', 0.0) * 1000:>5.0f} ms"
            f" {result['error']:>9.6f} {result['setup_s']:>5.1f} s {result['turn_s']:>6.1f} s"
            f" {result['ahead']:>5}",
            flush=True,
        )
        failures = [line for line in result.get("said", []) if "the program goes on without it" in line]
        self.wrong += [f"{model}, {way}: {line}" for line in failures]
        if not result["error"] <= TOLERANCE:
            self.wrong.append(f"{model}, {way}: error {result['error']}")
        if isinstance(number, int):
            self.rounds.setdefault(model, {}).setdefault(way, {})[number] = result
        else:
            self.others.append({"when": number, "model": model, "way": way, **result})

    def tables(self) -> Iterator[str]:
        """Yield lines of medians, and of paired ratios with their 95 % intervals."""
        for model, ways in self.rounds.items():
            yield f"\n== {model}"
            local = ways.get("local-warm", {})
            for way, found in ways.items():
                times = [each["first_call_s"] for each in found.values()]
                own = [each.get("tritonsync", {}).get("own_s", 0.0) * 1000 for each in found.values()]
                both = [number for number in found if number in local]
                ratio, low, high = paired_ratio(
                    [found[number]["first_call_s"] for number in both],
                    [local[number]["first_call_s"] for number in both],
                )
                yield (
                    f"{way:<12} n {len(times)}, median {statistics.median(times):7.3f} s ({min(times):.3f} to"
                    f" {max(times):.3f}), {ratio:.2f}x local-warm ({low:.2f} to {high:.2f}),"
                    f" own median {statistics.median(own):.0f} ms, at most {max(own):.0f} ms"
                )
            for function in self.functions.get(model, []):
                yield f"  {function['outcome']}: {function['name']} {function['reason']}"


class Series:
    """What is run, until the time is over.

    Args:
        here: whose workers are forked.
        fresh: the same world, with fresh workers.
        end: `time.monotonic()` after which nothing begins.
    """

    def __init__(self, here: World, fresh: World, end: float) -> None:
        self.measured = Measured()
        self._here, self._fresh, self._end = here, fresh, end
        self._filled: set[tuple[str, str]] = set()
        self._numbers = 0

    def has_time(self, what: str, seconds: float = _RESERVE_S) -> bool:
        """Whether something may begin that takes so many seconds."""
        if time.monotonic() + seconds < self._end:
            return True
        print(f"no time for {what}", flush=True)
        return False

    def alone(self, models: list[str]) -> None:
        """Fill the bucket of some models by cold workers, one after the other."""
        for model in models:
            if self.has_time(f"{model} cold, alone", 60):
                self._fill("alone", model, "tritonsync")

    def fill(self, models: list[str], together: int) -> None:
        """Fill all folders and buckets, so many workers side by side, those that take longest first."""
        work = [(model, way) for model in reversed(models) for way in WAYS if (model, way) not in self._filled]
        with ThreadPoolExecutor(together) as pool:
            for each in as_completed([pool.submit(self._fill, "beside", model, way) for model, way in work]):
                each.result()

    def _fill(self, when: str, model: str, way: str) -> None:
        here = self._here
        self._filled.add((model, way))
        if way == "local-warm":
            result = here.run(model, cache=here.cache(f"{model}-local"))
        elif way == "torch's own":
            blob = here.state / f"{model}.blob"
            result = here.run(model, "--save-mega", blob, cache=here.cache(f"{model}-own"), variables=_OWN)
        else:
            result = here.run(model, **self._from_bucket(model, way))
        self.measured.add(f"cold, {when}", model, way, result)

    def watch(self, models: list[str]) -> None:
        """Take in what the report says of a worker with precompile."""

        def see(model: str) -> dict[str, Any]:
            return self._here.run(model, watched=True, **self._from_bucket(model, "precompile"))

        with ThreadPoolExecutor(len(models)) as pool:
            for model, seen in zip(models, pool.map(see, models), strict=True):
                self.measured.add("watched", model, "precompile", seen)
                self.measured.functions[model] = seen.get("precompiled", [])

    def rounds(self, models: list[str], count: int, own: int) -> None:
        """Measure rounds of some models; torch's own way in the first `own` of them."""
        waiting: dict[tuple[str, str], Gated] = {}
        number = 0
        while True:
            ending = waiting
            self._first_calls(ending)
            more = number < count and self.has_time(f"round {number + 1} of {', '.join(models)}")
            # The next ones set up their programs while these compare their numbers.
            waiting = self._start(number + 1, models, own) if more else {}
            for (model, way), worker in ending.items():
                self.measured.add(number, model, way, worker.result())
            if not more:
                return
            number += 1

    def _start(self, number: int, models: list[str], own: int) -> dict[tuple[str, str], Gated]:
        turn = number % len(WAYS)
        turns = [
            (model, way)
            for way in (*WAYS[turn:], *WAYS[:turn])
            for model in models
            if way != "torch's own" or number <= own
        ]
        return {(model, way): self._gated(model, way) for model, way in turns}

    def _gated(self, model: str, way: str) -> Gated:
        here = self._here
        if way == "local-warm":
            return here.gated(model, cache=here.state / "caches" / f"{model}-local")
        if way == "torch's own":
            return here.gated(model, cache=here.state / "caches" / f"{model}-own", variables=_OWN)
        return here.gated(model, **self._from_bucket(model, way))

    @staticmethod
    def _first_calls(workers: dict[tuple[str, str], Gated]) -> None:
        for worker in workers.values():
            worker.until("ready")
        for worker in workers.values():
            worker.go()
            worker.until("called")
        for worker in workers.values():
            worker.go()

    def fresh(self, model: str, count: int) -> None:
        """Measure some workers that are fresh interpreters, one after the other, for comparison."""
        for number in range(count):
            for way in ("local-warm", "precompile") if number % 2 else ("precompile", "local-warm"):
                if self.has_time(f"a fresh worker of {model}", 40):
                    local = {"cache": self._here.state / "caches" / f"{model}-local"}
                    how = local if way == "local-warm" else self._from_bucket(model, way)
                    self.measured.add("fresh", model, way, self._fresh.run(model, **how))

    def _from_bucket(self, model: str, way: str) -> dict[str, Any]:
        self._numbers += 1
        cache = self._here.cache(f"{model}-{way}-{self._numbers}")
        variables = _PRECOMPILE if way == "precompile" else {}
        return {"cache": cache, "prefix": f"{model}-{way}", "variables": variables}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="measured in this order")
    parser.add_argument("--abreast", type=int, default=2, help="how many models share a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--own", type=int, default=2, help="in how many of the rounds torch's own way runs")
    parser.add_argument("--alone", default="", help="models whose bucket is filled by a cold worker alone")
    parser.add_argument("--later", default="", help="more of those, after the rounds of half of the models")
    parser.add_argument("--fresh", type=int, default=1, help="fresh workers of the first model, of two ways each")
    parser.add_argument("--together", type=int, default=os.cpu_count(), help="cold workers side by side")
    parser.add_argument("--imports", default="torch,timm,transformers.models.llama.modeling_llama")
    parser.add_argument("--seconds", type=float, default=3600, help="begin nothing after so many")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds added to each round trip")
    parser.add_argument("--state", type=Path, default=Path("/tmp/tritonsync-precompile"))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    options = parser.parse_args()
    began = time.monotonic()
    shutil.rmtree(options.state, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    models = options.models.split(",")
    groups = [models[at : at + options.abreast] for at in range(0, len(models), options.abreast)]

    def part(name: str) -> None:
        print(f"-- {time.monotonic() - began:.0f} s: {name}", flush=True)

    with contextlib.ExitStack() as stack:
        fresh = stack.enter_context(
            world(options.state, device=options.device, tiny=options.tiny, latency=options.latency)
        )
        forked = [name for name in options.imports.split(",") if name]
        here = stack.enter_context(fresh.forking(forked)) if forked else fresh
        series = Series(here, fresh, began + options.seconds)
        part(f"workers are forked after importing {', '.join(forked)}" if forked else "workers are fresh processes")
        print(_HEAD, flush=True)
        series.alone([name for name in options.alone.split(",") if name])
        if series.measured.wrong:
            sys.exit("the first workers failed: nothing else is tried")
        part("cold workers beside others fill folders and buckets: their times are not counted")
        series.fill(models, options.together)
        series.watch(models)
        for number, group in enumerate(groups):
            part(f"rounds of {', '.join(group)}")
            series.rounds(group, options.rounds, options.own)
            if number == (len(groups) - 1) // 2:
                series.fresh(models[0], options.fresh)
                series.alone([name for name in options.later.split(",") if name])
    measured = series.measured
    print("\n".join(measured.tables()))
    for each in measured.wrong:
        print(f"WRONG {each}")
    part("the end")
    (options.out / "precompile.json").write_text(json.dumps(vars(measured), indent=1))
    sys.exit(1 if measured.wrong else 0)


if __name__ == "__main__":
    main()
