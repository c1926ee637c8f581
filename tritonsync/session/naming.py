"""What a workload is called where nobody names it: after the program, so that two programs rarely have one name.

Every worker of a job has to come to the same name, on whatever host and below whatever folder, and so does the job's
next run. So of the folders that a program lies in only the nearest counts that says something about it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

__all__ = ["program_name"]

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
#: Folders of installed programs, whose names are their own.
_INSTALLED = frozenset({"bin", "sbin", "site-packages", "dist-packages"})
#: Folders that do not tell one program from another.
_COMMON = frozenset(
    [
        "app",
        "code",
        "examples",
        "home",
        "job",
        "jobs",
        "mnt",
        "notebooks",
        "opt",
        "project",
        "root",
        "scripts",
        "src",
        "srv",
        "tmp",
        "tools",
        "usr",
        "var",
        "work",
        "workdir",
        "workspace",
    ]
)
#: Names made for one run: `tmpx3k2`, a date, a job's number, a digest.
_RANDOM = re.compile(r"tmp|\d{4}|[0-9a-f]{8}")
#: Folders that are looked at.
_DEPTH = 3
#: Programs in which people work at a prompt or in a notebook.
_PROMPTS = frozenset({"colab_kernel_launcher", "ipykernel_launcher", "ipython", "ipython3", "bpython", "ptpython"})


def program_name(argv: Sequence[str], notebook: str | None = None) -> str | None:
    """Derive a workload's name from a program's arguments.

    `resnet-train` for `python train.py` in a folder `resnet`, `pkg-train` for `python -m pkg.train`, `vllm` for an
    installed command, `lab-demo` for a notebook `demo.ipynb` in a folder `lab`. None where it has no name of its own
    (`python -c`, a prompt, a notebook that cannot be known): such runs have nothing in common.

    Args:
        argv: of the program.
        notebook: path of the notebook, if the program is its kernel.
    """
    path = argv[0] if argv else ""
    if path in ("", "-", "-c", "-m"):
        return None
    folder, file = os.path.split(os.path.abspath(path))  # noqa: PTH100
    if file.removesuffix(".py") in _PROMPTS:
        if notebook is None or not notebook.endswith(".ipynb"):
            return None
        folder, file = os.path.split(os.path.abspath(notebook))  # noqa: PTH100
        file = file.removesuffix(".ipynb")
    stem = file.removesuffix(".py")
    if stem == "__main__":
        folder, stem = os.path.split(folder)
    parts = [part for part in (_telling_folder(folder), stem) if part]
    return _NOT_IN_NAMES.sub("-", "-".join(parts)).strip(".-")[:200] or None


def _telling_folder(folder: str) -> str | None:
    """Return the nearest of the folders that says something about the program in it."""
    for _ in range(_DEPTH):
        folder, name = os.path.split(folder)
        if name in _INSTALLED:
            return None
        if name and name not in _COMMON and not _RANDOM.search(name):
            return name
    return None
