"""Torch's TritonBundler and ours, side by side in one compile for a GPU that is not there: `python bundler_life.py`.

Ours is told what torch tells its own. Then each writes its bundle into an empty cache, loads its static autotuners into
torch's table of compiled kernels, and torch compiles the same graph once more. Prints a JSON document of both.
"""
# mypy: ignore-errors

from __future__ import annotations

import collections
import json
import os
import pickle
import sys
from pathlib import Path

import torch

from tests.plugins import absent_gpu  # noqa: F401 - after torch

import triton  # isort: skip
from torch._dynamo.utils import counters  # isort: skip
from torch._inductor.async_compile import CompiledTritonKernels  # isort: skip
from torch._inductor.codecache import StaticAutotunerFuture  # isort: skip
from torch._inductor.runtime.cache_dir_utils import triton_cache_dir  # isort: skip
from torch._inductor.runtime.triton_heuristics import triton_hash_to_path_key  # isort: skip
from torch._inductor.triton_bundler import TritonBundler as Theirs  # isort: skip
from torch._subclasses.fake_tensor import FakeTensorMode  # isort: skip

from tritonsync.bundler import TritonBundler as Ours  # isort: skip
from tritonsync.plugins.inductor import load_static_autotuner  # isort: skip
from tritonsync.settings import Settings  # isort: skip

ours = Ours(Settings(url="s3://bucket"), triton_cache_dir, load_autotuner=load_static_autotuner)
made = []
#: Called when torch begins to compile: it has emptied its table by then, as it does for every graph.
at_begin = []


def tell_both():
    """Tell ours what torch tells its own."""
    begin, put, winner, collect = Theirs.begin_compile, Theirs.put, Theirs.put_winner, Theirs.collect

    def begin_both(cls):
        begin()
        ours.begin_compile()
        for function in at_begin:
            function()

    def put_both(cls, kernel_hash, device):
        put(kernel_hash, device)
        ours.put(kernel_hash, device)

    def winner_both(cls, kernel_hash):
        winner(kernel_hash)
        ours.put_winner(kernel_hash)

    def collect_both(cls):
        for static in Theirs._static_autotuners or ():
            hashes = [triton_hash_to_path_key(result.kernel.hash) for result in static.kernel.compile_results]
            ours.put_static_autotuner(static.cache_key, static.kernel_name, pickle.dumps(static.kernel), hashes)
        collected = ours.collect()
        theirs = collect()
        # As torch keeps it: inside a pickle.
        made.append((pickle.dumps(theirs[0]), theirs[1], collected))
        return theirs

    for name, function in (
        ("begin_compile", begin_both),
        ("put", put_both),
        ("put_winner", winner_both),
        ("collect", collect_both),
    ):
        setattr(Theirs, name, classmethod(function))


def compile_once():
    """Compile a graph; return how many kernels Triton compiled for it."""
    compiled = []
    triton.knobs.compilation.listener = lambda **told: compiled.append(told) if not told["cache_hit"] else None
    torch._dynamo.reset()
    with FakeTensorMode():
        x, y = (torch.empty(64, 64, device="cuda") for _ in range(2))
        torch.compile(softmax)(x, y)
    return len(compiled)


def start_afresh(folder):
    """Forget what was compiled, and let all caches be empty."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    os.environ.pop("TRITON_CACHE_DIR", None)  # which Inductor sets to a folder in it
    Path(folder).mkdir(parents=True)
    CompiledTritonKernels.cache_clear()
    counters.clear()


def table(folder):
    """Return what is in torch's table: key -> where the binaries lie below the cache."""
    return {
        key: sorted(
            str(Path(result.kernel.cubin_path).relative_to(folder))
            for result in future.static_autotuner.compile_results
        )
        for key, future in CompiledTritonKernels._cache.items()
        if isinstance(future, StaticAutotunerFuture)
    }


def files(folder):
    """Return the kernel files below a cache, without what depends on its path."""
    found = collections.defaultdict(dict)
    for path in Path(folder).glob("triton/*/*/*"):
        found[path.parent.name][path.name] = path.read_bytes().replace(os.fsencode(folder), b"").hex()
    return found


def count(name):
    return counters["inductor"][f"triton_bundler_{name}"]


def softmax(x, y):
    return torch.softmax(torch.relu(x) + y, 1)


def main(root: str) -> None:
    tell_both()
    start_afresh(f"{root}/made")
    first = compile_once()
    [(theirs, metadata, collected)] = made
    unpickled = pickle.loads(theirs)
    told = {"compiled": first}
    told["collected"] = {
        "theirs": {
            kernel.kernel_hash: {file.filename: file.payload.hex() for file in kernel.artifacts}
            for kernel in unpickled.kernel_artifacts
        },
        "ours": {kernel.hash: {f.name: f.payload.hex() for f in kernel.files} for kernel in collected.bundle.kernels},
        "devices": sorted({kernel.device for kernel in collected.bundle.kernels}),
        "names": [sorted(metadata.cached_kernel_names), sorted(collected.metadata.cached_kernel_names)],
        "static": [metadata.statically_launched_kernel_names, collected.metadata.statically_launched_kernel_names],
    }
    start_afresh(f"{root}/theirs")
    emitted = Theirs.read_and_emit(unpickled)
    told["theirs"] = {
        "table": table(f"{root}/theirs"),
        "files": files(f"{root}/theirs"),
        "static": list(emitted.statically_launched_kernel_names),
        "loaded": count("load_static_autotuner"),
    }
    start_afresh(f"{root}/ours")
    emission = ours.read_and_emit(collected.bundle)
    told["ours"] = {
        "table": table(f"{root}/ours"),
        "files": files(f"{root}/ours"),
        "static": list(emission.metadata.statically_launched_kernel_names),
        "loaded": count("load_static_autotuner"),
    }
    # The graph is compiled again, and its kernels come from the table.
    start_afresh(f"{root}/again")
    at_begin.append(lambda: ours.read_and_emit(collected.bundle))
    told["again"] = [compile_once(), counters["inductor"]["async_compile_cache_hit"]]
    # A folder that is being compiled by somebody else: the autotuner waits for another day.
    start_afresh(f"{root}/busy")
    folder = Path(triton_cache_dir(0)) / collected.bundle.kernels[0].hash
    folder.mkdir(parents=True)
    (folder / "k.source").write_text("being made")
    told["busy"] = [dict(ours.read_and_emit(collected.bundle).outcomes), table(f"{root}/busy")]
    # A binary that is gone: that autotuner is skipped.
    start_afresh(f"{root}/gone")
    lost = ours.load_autotuners(collected.bundle.static_autotuners, load_static_autotuner)
    told["gone"] = [list(lost.loaded), list(lost.skipped), table(f"{root}/gone")]
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
