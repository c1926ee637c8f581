"""Make `dynamic-cpu.tar.xz`: values of torch's FX and AOTAutograd caches that hold guards.

Needs torch 2.13.0 (the CPU build will do) and a C++ compiler. Each variant is made by a child process with a cache of
its own, as on two workers: one is called with 50 rows and one with 200. The function asks whether there are more than
100 rows and computes the same either way, so both values stand under one key, with other guards.

    python make_dynamic.py
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TARGET = Path(__file__).with_name("dynamic-cpu.tar.xz")
CACHES = ("fxgraph", "aotautograd")


def compile_one(rows: int) -> None:
    """Compile the module for a dynamic number of rows."""
    import torch

    def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if x.shape[0] <= 100:
            return torch.relu(x @ weight).sum(0)
        return torch.relu(x @ weight).sum(0)

    x = torch.ones(rows, 8)
    torch._dynamo.mark_dynamic(x, 0)
    torch.compile(forward)(x, torch.ones(8, 4))


def main() -> None:
    """Run the children and pack the values that they left."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(TARGET, "w:xz", preset=9) as archive:
        for rows in (50, 200):
            cache = Path(folder, str(rows))
            env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
            subprocess.run([sys.executable, __file__, str(rows)], env=env, check=True)
            for path in sorted(path for kind in CACHES for path in (cache / kind).rglob("*") if path.is_file()):
                member = tarfile.TarInfo(f"{rows}/{path.relative_to(cache)}")
                member.size = path.stat().st_size
                archive.addfile(member, io.BytesIO(path.read_bytes()))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        compile_one(int(sys.argv[1]))
    else:
        main()
