"""Make `bundled-cpu.pickle.xz`: a value of torch's AOTAutograd cache that holds its graphs, forward and backward.

Needs torch 2.13.0 (the CPU build will do). On a CPU the two bundles of kernels are empty.

    python make_bundled.py
"""

import lzma
import os
import tempfile
from pathlib import Path

TARGET = Path(__file__).with_name("bundled-cpu.pickle.xz")


def main() -> None:
    """Compile a function in an empty cache folder, and pack the value that is left there."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        import torch
        import torch._functorch.config

        torch._functorch.config.bundled_autograd_cache = True
        compiled = torch.compile(lambda x, w: torch.mm(x, w))
        compiled(torch.ones(4, 4), torch.ones(4, 4, requires_grad=True)).sum().backward()
        [value] = (path for path in Path(cache, "aotautograd").rglob("*") if path.is_file())
        TARGET.write_bytes(lzma.compress(value.read_bytes(), preset=9))


if __name__ == "__main__":
    main()
