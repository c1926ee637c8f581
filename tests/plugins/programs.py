# ruff: noqa: T201
"""Programs that a user could have written: `python programs.py <name> [arguments]`, each in a process of its own.

They use matrix products only, which Inductor compiles without a C++ compiler. The last line they print is one JSON
object: their numbers, and torch's own counters.
"""

from __future__ import annotations

import importlib
import inspect
import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch


def weight(columns: int = 8) -> torch.Tensor:
    return torch.arange(8 * columns, dtype=torch.float32).reshape(8, columns) / 7


def model(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.mm(x, w)


def bigger_or_smaller(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    # The question becomes a guard, the answer changes nothing: two values under one key.
    if x.shape[0] <= 100:
        return torch.mm(x, w)
    return torch.mm(x, w)


def step(function: Any = model, columns: int = 8) -> list[float]:
    """One forward and one backward pass of a compiled function."""
    x = torch.ones(4, 8, requires_grad=True)
    y = torch.compile(function)(x, weight(columns))
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    return [float(y.detach().sum()), float(x.grad.sum())]


def counters() -> dict[str, int]:
    from torch._dynamo.utils import counters as counted

    names = {"fx": ("inductor", "fxgraph_cache_"), "aot": ("aot_autograd", "autograd_cache_")}
    return {
        f"{short}_{what}": counted[group][f"{prefix}{what}"]
        for short, (group, prefix) in names.items()
        for what in ("hit", "miss", "bypass")
    }


def finish(numbers: Any, **more: Any) -> None:
    print(json.dumps({"numbers": numbers, **counters(), **more}), flush=True)


def train() -> None:
    finish(step())


def train_and_wait() -> None:
    numbers = step()
    finish(numbers)
    time.sleep(120)


def train_twice() -> None:
    """Compile, wait for a line on stdin, and compile something else."""
    first = step()
    print("compiled", flush=True)
    sys.stdin.readline()
    torch.compiler.reset()
    finish([first, step(lambda x, w: torch.mm(x, w.sin()))])


def rows(*counts: str) -> None:
    """Call with these numbers of rows, each time as a new program would."""
    numbers = []
    for count in counts:
        torch.compiler.reset()
        x = torch.ones(int(count), 8)
        torch._dynamo.mark_dynamic(x, 0)
        numbers.append(float(torch.compile(bigger_or_smaller)(x, weight()).sum()))
    finish(numbers)


def profile(*counts: str) -> None:
    """Call with these numbers of rows, and let Dynamo find out that they change."""
    compiled = torch.compile(model)
    numbers = [float(compiled(torch.ones(int(count), 8), weight()).sum()) for count in counts]
    from torch._dynamo.utils import counters as counted

    finish(numbers, graphs=counted["stats"]["unique_graphs"])


def bundled() -> None:
    """Compile with AOTAutograd's values holding their graphs."""
    import torch._functorch.config

    torch._functorch.config.bundled_autograd_cache = True
    finish(step())


def uncached() -> None:
    """Compile with torch's graph cache switched off, by the program itself."""
    import torch._inductor.config

    torch._inductor.config.fx_graph_cache = False
    finish(step())


def mega_save(path: str) -> None:
    numbers = step()
    artifacts = torch.compiler.save_cache_artifacts()
    assert artifacts is not None
    Path(path).write_bytes(artifacts[0])
    finish(numbers)


def mega_load(path: str) -> None:
    torch.compiler.load_cache_artifacts(Path(path).read_bytes())
    finish(step())


def _child(queue: Any) -> None:
    queue.put({"numbers": step(), **counters()})


def children(method: str) -> None:
    """Compile in a child only."""
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    told = queue.get(timeout=120)
    child.join()
    assert child.exitcode == 0
    print(json.dumps(told), flush=True)


def import_only() -> None:
    finish([], modules=sorted(name for name in sys.modules if name.startswith(("tritonsync", "fsspec", "s3fs"))))


def by_hand(url: str) -> None:
    """Uninstall and install with other settings."""
    import tritonsync

    seen = []
    for mode in ("off", "read-only"):
        tritonsync.install(tritonsync.Settings(url=url, mode=mode, strict=True))
        torch.compiler.reset()
        numbers = step()
        counted = counters()
        seen.append([counted["fx_hit"], counted["aot_hit"]])
        shutil.rmtree(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    tritonsync.uninstall()
    finish(numbers, hits=seen, restored=not _ours())


def _ours() -> list[str]:
    """Name the functions of torch that are not torch's."""
    from torch._dynamo import pgo
    from torch._functorch._aot_autograd import autograd_cache
    from torch._inductor import codecache

    functions = [
        codecache.GuardedCache.iterate_over_candidates,
        codecache.FxGraphCache._write_to_local_cache,
        autograd_cache.AOTAutogradCache._write_to_local_cache,
        pgo.get_remote_cache,
    ]
    return [function.__qualname__ for function in functions if "tritonsync" in function.__code__.co_filename]


def unknown_torch(url: str) -> None:
    """Meet a torch in which a function has one more parameter."""
    import torch._functorch._aot_autograd.autograd_cache as changed

    import tritonsync

    original = changed.AOTAutogradCache._write_to_local_cache
    changed.AOTAutogradCache._write_to_local_cache = staticmethod(
        lambda key, content, more=None: original(key, content)
    )
    tritonsync.install(tritonsync.Settings(url=url))
    finish(step(), restored=not _ours())


#: Functions of ours on the ways that torch's calls take.
_TARGETS = {
    "Session.look_up": "tritonsync.session.session",
    "Session.enqueue_value": "tritonsync.session.session",
    "Session.newest": "tritonsync.session.session",
    "Session.enqueue_newest": "tritonsync.session.session",
    "GraphLookup.more": "tritonsync.session.lookup",
    "GraphLookup.taken": "tritonsync.session.lookup",
    "GraphLookup._fetch": "tritonsync.session.lookup",
    "GraphLookups.note_offered": "tritonsync.session.lookup",
    "Incoming.names": "tritonsync.session.incoming",
    "Incoming.fetch_variants": "tritonsync.session.incoming",
    "Outgoing.enqueue_value": "tritonsync.session.outgoing",
    "WorkloadRecord.note": "tritonsync.session.workload",
    "Counters.add": "tritonsync.session.counters",
}


def _break(name: str) -> tuple[Any, str, Any, list[str]]:
    owner, attribute = name.split(".")
    holder = getattr(importlib.import_module(_TARGETS[name]), owner)
    original = getattr(holder, attribute)
    reached: list[str] = []

    def broken(*_args: Any, **_kwargs: Any) -> Any:
        reached.append(name)
        # A class of its own: warnings are said once per function and class.
        raise type(f"Broken{len(name)}", (Exception,), {})(f"{name} is broken")

    setattr(holder, attribute, broken)
    return holder, attribute, original, reached


def _afresh(name: str) -> None:
    """Begin as a new process of another job would, with empty caches."""
    import torch._dynamo.pgo
    import torch.compiler.config

    torch.compiler.reset()
    torch.compiler.config.job_id = name
    torch._dynamo.pgo.reset_code_state()
    shutil.rmtree(os.environ["TORCHINDUCTOR_CACHE_DIR"], ignore_errors=True)


def _eager(columns: int) -> list[float]:
    x = torch.ones(4, 8, requires_grad=True)
    y = model(x, weight(columns))
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    return [float(y.detach().sum()), float(x.grad.sum())]


def broken() -> None:
    """Break one function after the other, and look at the numbers each time: of a hit, and of a miss."""
    wrong, unreached = [], []
    for number, name in enumerate(_TARGETS, start=9):
        holder, attribute, original, reached = _break(name)
        for columns in (8, number):
            _afresh(f"{name}-{columns}")
            if step(columns=columns) != _eager(columns):
                wrong.append(name)
        setattr(holder, attribute, original)
        if not reached:
            unreached.append(name)
    print(json.dumps({"wrong": wrong, "unreached": unreached, "broken": list(_TARGETS)}), flush=True)


def broken_once() -> None:
    _break("Session.look_up")
    step(columns=9)


def autotune_elsewhere() -> None:
    """Look up and save an autotune result whose path cannot be entered."""
    from torch._inductor.runtime.autotune_cache import LocalAutotuneCache

    path = "/dev/null/inductor/ab/" + "0" * 64 + ".best_config"
    names = ["local-autotune"] if inspect.signature(LocalAutotuneCache).parameters else []  # it has one since 2.13
    cache = LocalAutotuneCache(*names)
    read = [cache.get(path)]
    cache.put(path, {"XBLOCK": 64})
    read.append(cache.get(path))
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    files = [str(file.relative_to(folder)) for file in folder.rglob("*.best_config")]
    print(json.dumps({"read": read, "files": files}), flush=True)


def ptxas(where: str, torch_file: str) -> None:
    """Compile a kernel as the program does, or as a compile worker; prints its hash.

    `torch_file` stands for the file of torch beside which torch looks for its own ptxas.
    """
    from torch._inductor.runtime import compile_tasks
    from triton.backends.nvidia.compiler import get_ptxas_version

    from tests.programs import compile_kernels

    os.environ.pop("TRITON_PTXAS_PATH", None)  # of this torch itself
    compile_tasks.__file__ = torch_file
    compile_tasks._set_triton_ptxas_path.cache_clear()
    if where == "program":
        if "TRITONSYNC_URL" in os.environ:
            from tritonsync.plugins.inductor import patch_compile_tasks

            patch_compile_tasks(compile_tasks)
        get_ptxas_version(90)  # for the backend's hash, which Inductor writes into the sources that it generates
    compile_tasks._set_triton_ptxas_path()
    compile_kernels.main(1, 90)


def other_libdevice(bucket: str) -> None:
    """Publish the FX values of a bucket again as a worker with another libdevice would have made them; they alone."""
    import pickle

    from tritonsync.format.value import bundle_of_value, value_of_bundle
    from tritonsync.local.cpu import host_cpu
    from tritonsync.remote.bucket import Bucket
    from tritonsync.store import Store

    store = Store(Bucket(bucket), cpu=host_cpu())
    for folder in Path(bucket, "bundles", "fx_graph").iterdir():
        (loaded,) = store.load("fx_graph", folder.name).bundles
        graph = pickle.loads(value_of_bundle(loaded.bundle))
        graph.extern_libs_key = "another libdevice"
        shutil.rmtree(folder)
        value = pickle.dumps(graph)
        assert store.publish(bundle_of_value("fx_graph", folder.name, value, cpu=host_cpu())).created


def elementwise(isa: str) -> None:
    """Compile C++ for a vector instruction set; where it is not this host's, without running it. Prints the error."""
    from torch._inductor import cpu_vec_isa

    if isa == "avx512":
        cpu_vec_isa.valid_vec_isa_list()[:] = [cpu_vec_isa.VecAVX512()]
        from torch._inductor.output_code import CompiledFxGraph

        CompiledFxGraph.__call__ = lambda graph, inputs: (torch.zeros(1000),)

    def function(x: torch.Tensor) -> torch.Tensor:
        return x.sin() + x.cos() * 2

    x = torch.arange(1000, dtype=torch.float32)
    error = float((torch.compile(function)(x) - function(x)).abs().max())
    finish(0 if error < 1e-5 else error)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
