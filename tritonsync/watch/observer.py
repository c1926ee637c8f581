"""What a watched process compiles and benchmarks, seen where it happens.

Installed by `tritonsync run` through the environment, in all processes of the run, compile workers included. It looks
at the one function of Inductor that turns a graph into code, at the functions that time kernels, and at Triton's own
listener for compilations, and counts nothing that we only assume.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
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
_is_helper = False
_here = threading.local()


def start(reporter: Reporter, *, is_helper: bool = False) -> None:
    """Choose where to report to; a helper only compiles for another process."""
    global _reporter, _is_helper
    _reporter, _is_helper = reporter, is_helper


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
        _here.key, _here.refusal, _here.graph = None, None, args[0] if args else None
        result = prepare_key(*args, **kwargs)
        if result[0] is not None:
            _here.key = result[0][0]
        else:
            _here.refusal = (result[1] or {}).get("cache_bypass_reason")
        return result

    codecache.FxGraphCache.prepare_key = staticmethod(watched)


def watch_compile_fx(compile_fx: Any) -> None:  # noqa: ANN401
    """See every graph that is compiled; in `torch._inductor.compile_fx`."""

    def facts() -> dict[str, Any]:
        key: str | None = getattr(_here, "key", None)
        graph: Any = getattr(_here, "graph", None)
        found: dict[str, Any] = {"name": key or "a graph that torch has no key for", "key": key}
        with contextlib.suppress(Exception):  # what only explains the event may not lose it, nor what the program does
            # Not before: this file is imported during `import torch`.
            from tritonsync.format.key_parts import files_in_traces
            from tritonsync.local.sources import digests_of_sources

            traces = (node.meta.get("stack_trace") for node in graph.graph.nodes)
            found["sources"] = digests_of_sources(files_in_traces(traces))
            found["cache"] = str(sys.modules["torch._inductor.runtime.cache_dir_utils"].cache_dir())
        if key is None and getattr(_here, "refusal", None):
            found["refusal"] = str(_here.refusal)[:300]
        return found

    original = compile_fx.fx_codegen_and_compile

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        _say("graph", **facts())
        with _inside_graph(getattr(_here, "key", None)):
            return original(*args, **kwargs)

    compile_fx.fx_codegen_and_compile = watched


@contextlib.contextmanager
def _inside_graph(key: str | None) -> Iterator[None]:
    """Note that what this thread compiles is part of a graph."""
    before = getattr(_here, "inside", None)
    _here.inside = key or ""
    try:
        yield
    finally:
        _here.inside = before
        _here.key = _here.graph = None


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
            path = next(iter((told.get("metadata_group") or {}).values()), None)
            folder = None if path is None else os.path.dirname(str(path))  # noqa: PTH120
            kernel_compiled(str(metadata.get("name")), str(metadata.get("hash")), folder)
        if other is not None:
            other(**told)

    knobs.compilation.listener = listener


def kernel_compiled(name: str, kernel_hash: str, folder: str | None) -> None:
    """Note a kernel that Triton compiled; `kernel_hash` in hex, and the folder of its files."""
    of_graph = _is_helper or getattr(_here, "inside", None) is not None
    _say("kernel", name=name, hash=kernel_hash, folder=folder, of_graph=of_graph)


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
