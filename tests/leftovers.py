"""What processes leave in a cache folder when they are killed."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.kernels import age


def leftovers(inductor: Path) -> tuple[list[Path], list[Path]]:
    """Leave something of ours, torch's and Triton's behind in Inductor's cache folder: old things, and young ones."""
    kernel = inductor / "triton" / "1" / ("A" * 52)

    def leave() -> list[Path]:
        ours, theirs = f"tmp.tritonsync-{os.getpid()}-{uuid.uuid4()}", f"tmp.{uuid.uuid4()}"
        folders = [inductor / "triton" / "0" / ours, inductor / "triton" / "1" / theirs]
        folders.append(kernel / f"tmp.pid_{os.getpid()}_{uuid.uuid4()}")
        for folder in folders:
            folder.mkdir(parents=True)
        hidden = inductor / f".{ours}"
        hidden.write_text("half a value")
        return [*folders, hidden]

    old, young = leave(), leave()
    for path in old:
        age(path)
    return old, young


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for what happens in the background."""
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)
