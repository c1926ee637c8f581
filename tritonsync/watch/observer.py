"""What a watched process compiles and benchmarks, seen where it happens.

Installed by `tritonsync run` through the environment, in all processes of the run, compile workers included. It looks
at the one function of Inductor that turns a graph into code, at the functions that time kernels, and at Triton's own
listener for compilations, and counts nothing that we only assume.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from tritonsync.watch.report import Reporter

__all__ = [
    "kernel_compiled",
    "precompiled",
    "remove",
    "start",
    "watch_autotuner",
    "watch_codecache",
    "watch_compile_fx",
    "watch_heuristics",
    "watch_knobs",
]

_reporter: Reporter | None = None
_here = threading.local()


def start(reporter: Reporter) -> None:
    """Choose where to report to."""
    global _reporter
    _reporter = reporter


def remove() -> None:
    """Stop reporting."""
    global _reporter
    _reporter = None


def _say(event: str, **facts: Any) -> None:  # noqa: ANN401
    if _reporter is not None:
        _reporter.say(event, **facts)


def watch_codecache(codecache: Any) -> None:  # noqa: ANN401
    """Note the key of the graph that is looked up, for its name; in `torch._inductor.codecache`."""
    prepare_key = codecache.FxGraphCache.prepare_key

    @functools.wraps(prepare_key)
    def watched(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        _here.key = None
        result = prepare_key(*args, **kwargs)
        if result[0] is not None:
            _here.key = result[0][0]
        return result

    codecache.FxGraphCache.prepare_key = staticmethod(watched)


def watch_compile_fx(compile_fx: Any) -> None:  # noqa: ANN401
    """See every graph that is compiled; in `torch._inductor.compile_fx`."""

    def event() -> tuple[str, dict[str, str]]:
        return "graph", {"name": getattr(_here, "key", None) or "a graph that torch has no key for"}

    _before(compile_fx, "fx_codegen_and_compile", lambda *_: event())


def watch_heuristics(heuristics: Any) -> None:  # noqa: ANN401
    """See every kernel of Inductor that is timed; in `torch._inductor.runtime.triton_heuristics`."""

    def event(autotuner: Any, *_: Any) -> tuple[str, dict[str, str]]:  # noqa: ANN401
        name = autotuner.inductor_meta.get("kernel_name") or autotuner.fn.__name__
        return "benchmark", {"name": str(name)}

    _before(heuristics.CachingAutotuner, "bench", event)


def watch_autotuner(autotuner: Any) -> None:  # noqa: ANN401
    """See every kernel under `triton.autotune` that is timed; in `triton.runtime.autotuner`."""
    _before(autotuner.Autotuner, "_bench", lambda tuner, *_: ("benchmark", {"name": str(tuner.base_fn.__name__)}))


def watch_knobs(knobs: Any) -> None:  # noqa: ANN401
    """See every kernel that Triton compiles; in `triton.knobs`."""
    other = knobs.compilation.listener

    def listener(**told: Any) -> None:  # noqa: ANN401
        if not told.get("cache_hit"):
            metadata = told.get("metadata") or {}
            _say("kernel", name=str(metadata.get("name")), hash=str(metadata.get("hash")))
        if other is not None:
            other(**told)

    knobs.compilation.listener = listener


def kernel_compiled(name: str, kernel_hash: str) -> None:
    """Note a kernel that Triton compiled; `kernel_hash` in hex."""
    _say("kernel", name=name, hash=kernel_hash)


def precompiled(name: str, outcome: str, reason: str = "") -> None:
    """Note what became of a function under precompile: `restored`, `used`, `refused`, `left out` or `published`."""
    _say("precompile", name=name, outcome=outcome, reason=reason)


def _before(owner: Any, name: str, event: Callable[..., tuple[str, dict[str, str]]]) -> None:  # noqa: ANN401
    """Report an event made of the arguments before a function runs."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        what, facts = event(*args)
        _say(what, **facts)
        return original(*args, **kwargs)

    setattr(owner, name, watched)
