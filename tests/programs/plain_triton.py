"""Programs of hand-written kernels: run as `python plain_triton.py <name> [arguments]`, each in a process of its own.

No torch and no GPU: kernels are compiled for compute capability 9.0 (the H100 and H200), not launched. The last line
that is printed is one JSON object.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.build import compile_module_from_src
from triton.runtime.cache import get_cache_manager

from tritonsync.demo.kernels import KERNELS, SHAPES


def build(count: int) -> list[dict[str, Any]]:
    """Compile so many distinct kernels; say of each what Triton's own listener said, and what it is made of."""
    told: list[bool] = []
    knobs.compilation.listener = lambda **facts: told.append(facts["cache_hit"])
    built = []
    for (block, warps), (kernel, types_) in itertools.islice(itertools.product(SHAPES, KERNELS), count):
        signature = dict(zip(kernel.arg_names, (*types_, "constexpr"), strict=True))
        source = ASTSource(kernel, signature=signature, constexprs={"BLOCK": block})
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
        facts = {
            name: value for name, value in made.metadata._asdict().items() if name not in ("target", "extern_libs")
        }
        built.append(
            {
                "hash": made.hash,
                "hit": told[-1],
                "cubin": hashlib.sha256(made.asm["cubin"]).hexdigest(),
                "facts": hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest(),
                "stages": sorted(made.asm),
            }
        )
    return built


def finish(**said: Any) -> None:
    manager = knobs.cache.manager_class
    heavy = ("fsspec", "torch", "tritonsync.session.session", "tritonsync.plugins.triton_kernels")
    said |= {
        "triton": triton.__version__,
        "manager": None if manager is None else manager.__name__,
        "heavy": [name for name in heavy if name in sys.modules],
    }
    print(json.dumps(said), flush=True)  # noqa: T201


def compile_kernels(count: str) -> None:
    finish(kernels=build(int(count)))


def compile_when_told(count: str) -> None:
    """Compile once a line comes in, as many processes as there are at the same moment."""
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    compile_kernels(count)


def moved(count: str, folder: str) -> None:
    """Compile; and again, as Inductor does it to kernels of its own, with another cache folder."""
    first = build(int(count))
    knobs.cache.dir = folder
    finish(kernels=build(int(count)), first=first)


def inside_a_graph(count: str) -> None:
    """Compile while torch's bundler takes notes, as it does in the process that compiles a graph."""
    torch = types.ModuleType("torch._inductor.triton_bundler")
    torch.TritonBundler = type("TritonBundler", (), {"_entries": []})  # type: ignore[attr-defined]
    sys.modules[torch.__name__] = torch
    compile_kernels(count)


def module(delay: str = "0") -> None:
    """Have a helper module built with the compiler of this host, as Triton does for its launchers."""
    source = """
        #include <Python.h>
        static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(42); }
        static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
        static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "helper", NULL, -1, methods};
        PyMODINIT_FUNC PyInit_helper(void) { return PyModule_Create(&module); }
    """
    answer = compile_module_from_src(source, "helper").answer()
    time.sleep(float(delay))
    finish(answer=answer)


def timings(gpu: str) -> None:
    """Look for an autotuner's timings of this GPU, as `Autotuner.check_disk_cache` does; measure if there are none."""
    cuda = types.SimpleNamespace(
        is_initialized=lambda: gpu != "", current_device=lambda: 0, get_device_name=lambda _device: gpu
    )
    torch = types.ModuleType("torch")
    torch.cuda, torch.__version__ = cuda, "2"  # type: ignore[attr-defined]
    sys.modules["torch"] = torch
    manager = get_cache_manager(hashlib.sha256(b"tuned").hexdigest())
    path = manager.get_file("matmul.autotune.json")
    if path is None:
        manager.put(
            json.dumps({"key": [1], "configs_timings": [[{"kwargs": {}}, [1.0]]], "gpu": gpu}), "matmul.autotune.json"
        )
    finish(tuned=path is None, found=None if path is None else json.loads(Path(path).read_text())["gpu"])


def look_up(count: str) -> None:
    """Ask for so many kernels that nobody has, and compile none of them."""
    for number in range(int(count)):
        manager = get_cache_manager(hashlib.sha256(str(number).encode()).hexdigest())
        assert not manager.get_group("kernel.json")
    finish()


def with_torch(count: str) -> None:
    """Compile in a program that has imported torch, which has found tritonsync by itself."""
    import torch  # noqa: F401

    compile_kernels(count)


def uninstalled(url: str, count: str) -> None:
    """Compile with tritonsync installed by hand; then without."""
    import tritonsync

    tritonsync.install(tritonsync.Settings(url=url, workload="by-hand"))
    first = build(int(count))
    chosen = str(knobs.cache.manager_class)
    tritonsync.uninstall()
    finish(kernels=first, chosen=chosen)


def chosen_by_the_user() -> None:
    """Have another manager than ours before torch is imported."""
    from triton.runtime.cache import FileCacheManager

    class Mine(FileCacheManager):  # type: ignore[misc]
        pass

    knobs.cache.manager_class = Mine
    import torch  # noqa: F401

    finish(kernels=build(1))


def forked(count: str) -> None:
    """Compile one kernel here, and more in a child."""
    import multiprocessing

    first = build(1)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(build(int(count))))
    child.start()
    kernels = queue.get(timeout=120)
    child.join()
    assert child.exitcode == 0
    finish(kernels=kernels, first=first)


def broken(folder: str) -> None:
    """Compile while each function of ours that Triton calls, and some below, raises in turn."""
    from tritonsync.local import triton_cache
    from tritonsync.plugins import triton_kernels as ours
    from tritonsync.session import session
    from tritonsync.session.plain_kernels import PlainKernels
    from tritonsync.session.session import Session

    owners = [
        (session, "current"),
        (Session, "fetch_kernel"),
        (Session, "enqueue_kernel"),
        (PlainKernels, "fetch"),
        (PlainKernels, "note_used"),
        (PlainKernels, "note_made"),
        (triton_cache, "emit"),
        (ours, "is_group_usable"),
        (ours, "is_damaged"),
        (ours, "_variant_of"),
        (ours, "_is_of_a_graph"),
    ]
    expected = [kernel["facts"] for kernel in build(2)]
    wrong, unreached = [], []
    for number, (owner, name) in enumerate(owners):
        reached: list[str] = []
        # Each is a cause of its own: a cause is said once.
        broken = type(f"Broken{number}Error", (Exception,), {})

        def fail(
            *_args: Any, name: str = name, reached: list[str] = reached, broken: type = broken, **_kwargs: Any
        ) -> None:
            reached.append(name)
            raise broken(f"{name} is broken")

        original = getattr(owner, name)
        setattr(owner, name, fail)
        knobs.cache.dir = f"{folder}/{number}"
        try:
            for _ in range(2):
                # Two that the bucket has, and one that is new.
                facts = [kernel["facts"] for kernel in build(3 + number)]
                manager = get_cache_manager(hashlib.sha256(b"helper").hexdigest())
                if manager.get_file("helper.so") is None:
                    manager.put(b"code", "helper.so")
                if facts[:2] != expected:
                    wrong.append(name)
        finally:
            setattr(owner, name, original)
        if not reached:
            unreached.append(name)
    finish(wrong=wrong, unreached=unreached, broken=[name for _, name in owners])


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
