"""Cache folders to measure with: the committed one of a real program, and synthetic ones of any number of kernels."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import tarfile
from pathlib import Path

__all__ = ["FIXTURE", "fixture", "synthetic"]

FIXTURE = Path(__file__).parents[1] / "data" / "h200-vit-infer.tar.xz"
#: Of each copy's binary so many bytes are noise, so that packs do not shrink to one kernel.
_NOISE = 4096


def fixture(target: Path, archive: Path = FIXTURE) -> Path:
    """Take an Inductor cache folder out of its archive and return it; it holds kernels and graphs."""
    with tarfile.open(archive) as opened:
        opened.extractall(target, filter="data")
    [found] = target.rglob("fxgraph")
    return found.parent


def synthetic(target: Path, count: int, source: Path) -> Path:
    """Make a Triton cache folder of `count` kernels below `target`, copies of real ones with other names and content.

    Args:
        target: what becomes an Inductor cache folder that holds nothing but `triton/0`.
        count: how many kernels.
        source: an Inductor cache folder.
    """
    models = [
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in sorted((source / "triton" / "0").iterdir())
        if any(folder.glob("*.cubin"))
    ]
    for number in range(count):
        files = models[number % len(models)]
        name = base64.b32encode(hashlib.sha256(str(number).encode()).digest()).decode().rstrip("=")
        folder = target / "triton" / "0" / name
        folder.mkdir(parents=True)
        for file, data in files.items():
            if file.endswith(".cubin"):
                start = (len(data) - _NOISE) // 2
                data = data[:start] + random.Random(number).randbytes(_NOISE) + data[start + _NOISE :]
            elif file.startswith("__grp__"):
                data = _moved(data, folder)
            (folder / file).write_bytes(data)
    return target


def _moved(group: bytes, folder: Path) -> bytes:
    """Return a group file whose paths lie in `folder`."""
    children = json.loads(group)["child_paths"]
    return json.dumps({"child_paths": {name: str(folder / name) for name in children}}).encode()
