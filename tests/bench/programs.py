"""Other programs that copy the kernel folders of a cache to or from a bucket, where they are installed."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.servers import Place

__all__ = ["Program", "other_programs", "path_of"]


@dataclasses.dataclass(frozen=True)
class Program:
    """How a program is called, given the place and the folder to write or read."""

    command: Callable[[Place, Path], list[str]]


def path_of(name: str) -> str | None:
    """Find a program beside this Python, else on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / name
    return str(beside) if beside.exists() else shutil.which(name)


@functools.lru_cache
def other_programs(action: str) -> Mapping[str, Program]:
    """Return those that are here and can `restore` or `publish`; none for anything else."""
    found: dict[str, Program] = {}
    for name, make in (("s5cmd", _s5cmd), ("rclone", _rclone), ("aws", _aws)):
        path = path_of(name)
        if path is not None and action in ("restore", "publish") and _runs(path):
            found[name] = Program(functools.partial(make, path, action == "restore"))
    return found


def _runs(path: str) -> bool:
    """Whether it is more than a placeholder: version managers put such ones on the PATH."""
    argument = "version" if path.endswith(("s5cmd", "rclone")) else "--version"
    try:
        return subprocess.run([path, argument], capture_output=True, check=False, timeout=60).returncode == 0
    except OSError:
        return False


def _s5cmd(path: str, down: bool, place: Place, folder: Path) -> list[str]:
    there, here = f"{place.url}/kernels/", f"{folder}/"
    copied = [f"{there}*", here] if down else [f"{folder}/triton/0/", there]
    return [path, "--endpoint-url", place.endpoint, "cp", *copied]


def _rclone(path: str, down: bool, place: Place, folder: Path) -> list[str]:
    remote = f":s3,provider=Other,env_auth,endpoint='{place.endpoint}':{place.url.removeprefix('s3://')}/kernels"
    copied = [remote, str(folder)] if down else [f"{folder}/triton/0", remote]
    return [path, "--config", os.devnull, "--transfers", "32", "copy", *copied]


def _aws(path: str, down: bool, place: Place, folder: Path) -> list[str]:
    there = f"{place.url}/kernels/"
    copied = [there, f"{folder}/"] if down else [f"{folder}/triton/0/", there]
    return [path, "--endpoint-url", place.endpoint, "s3", "cp", "--recursive", "--only-show-errors", *copied]
