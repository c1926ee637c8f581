"""PyTorch's TritonBundler and Triton's FileCacheManager, asked over stdin and stdout, one JSON document a line.

A process of its own: importing torch sets variables and emits warnings that are not those of the tests.
"""

import base64
import json
import os
import sys
from typing import Any


def collect(directory: str, hashes: list[str]) -> dict[str, dict[str, str]]:
    from torch._inductor.triton_bundler import TritonBundler

    os.environ["TRITON_CACHE_DIR"] = directory
    TritonBundler.begin_compile()
    for kernel_hash in hashes:
        TritonBundler.put(kernel_hash, 0)
    bundle, _ = TritonBundler.collect()
    return {
        kernel.kernel_hash: {file.filename: base64.b64encode(file.payload).decode() for file in kernel.artifacts}
        for kernel in bundle.kernel_artifacts
    }


def emit(directory: str, kernels: dict[str, dict[str, str]]) -> list[str]:
    from torch._inductor.triton_bundler import (
        TritonBundle,
        TritonBundler,
        TritonKernelArtifact,
        TritonKernelArtifacts,
    )

    os.environ["TRITON_CACHE_DIR"] = directory
    artifacts = [
        TritonKernelArtifacts(
            kernel_hash, 0, [TritonKernelArtifact(name, base64.b64decode(data)) for name, data in files.items()]
        )
        for kernel_hash, files in kernels.items()
    ]
    metadata = TritonBundler.read_and_emit(TritonBundle(artifacts, []))
    assert metadata is not None
    return list(metadata.cached_kernel_names)


def group(directory: str, kernel_hash: str, name: str) -> dict[str, str] | None:
    from triton.runtime.cache import FileCacheManager

    os.environ["TRITON_CACHE_DIR"] = directory
    listed: dict[str, str] | None = FileCacheManager(kernel_hash).get_group(f"{name}.json")
    return listed


def isa(capabilities: list[str | None]) -> list[str]:
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    picked = []
    for capability in capabilities:
        os.environ.pop("ATEN_CPU_CAPABILITY", None)
        if capability is not None:
            os.environ["ATEN_CPU_CAPABILITY"] = capability
        picked.append(str(pick_vec_isa()))
    return picked


def probed_isa() -> str:
    """Return the instruction set that torch picks, if the compiler builds torch's trial programs for it."""
    from torch._inductor import config, cpu_vec_isa

    os.environ.pop("ATEN_CPU_CAPABILITY", None)
    picked = cpu_vec_isa.pick_vec_isa()
    for kind in type(picked).__mro__:
        getattr(vars(kind).get("__bool__"), "cache_clear", lambda: None)()
    with config.patch({"cpp.vec_isa_ok": None}):
        return str(picked) if picked else str(cpu_vec_isa.invalid_vec_isa)


def paths(root: str, data: str, pgo: str) -> dict[str, str]:
    """Return where torch itself keeps the values of some keys below `root`."""
    from torch._dynamo.package import DiskDynamoStore
    from torch._dynamo.pgo import code_state_path
    from torch._functorch._aot_autograd.autograd_cache import AOTAutogradCache
    from torch._inductor.codecache import FxGraphCache

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = root
    content = base64.b64decode(data)
    FxGraphCache._write_to_local_cache("fgraphkey", content)
    AOTAutogradCache._write_to_local_cache("aotkey", content)
    DiskDynamoStore(f"{root}/dynamo")._write_to_local_cache(content, "source-id")
    path = code_state_path(pgo)
    assert path is not None
    return {"pgo": path}


def inductor_dir(given: str | None) -> str:
    from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

    if given is None:
        return str(default_cache_dir())
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = given
    return str(cache_dir())


COMMANDS: dict[str, Any] = {
    "collect": collect,
    "emit": emit,
    "group": group,
    "isa": isa,
    "probed_isa": probed_isa,
    "paths": paths,
    "inductor_dir": inductor_dir,
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever torch prints must not land among the answers
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        try:
            answer = {"result": COMMANDS[command](*arguments)}
        except Exception as exc:  # noqa: BLE001
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
