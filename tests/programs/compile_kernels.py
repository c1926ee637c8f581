"""Compile real Triton kernels without a GPU: `python compile_kernels.py COUNT COMPUTE_CAPABILITY`.

Writes into TRITON_CACHE_DIR and prints each kernel's folder name. Triton reads a kernel's source from its file, so this
is a program of its own.
"""

import base64
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit  # type: ignore[untyped-decorator]
def scale_kernel(source, target, count, factor, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(target + at, tl.load(source + at, mask=inside) * factor, mask=inside)


def main(count: int, capability: int) -> None:
    signature = {"source": "*fp32", "target": "*fp32", "count": "i32", "factor": "fp32", "BLOCK": "constexpr"}
    for power in range(count):
        compiled = triton.compile(
            ASTSource(fn=scale_kernel, signature=signature, constexprs={"BLOCK": 64 << power}),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": 4},
        )
        print(base64.b32encode(bytes.fromhex(compiled.hash)).decode().rstrip("="), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
