from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tritonsync.local.gpu import Gpu, first_gpu

#: A driver with one GPU; `FAILS` is the call that it refuses.
DRIVER = """
#include <string.h>
#define CALL(name) (strcmp(FAILS, name) == 0 ? 100 : 0)
int cuInit(unsigned flags) { return CALL("cuInit"); }
int cuDeviceGet(int *device, int number) { *device = number; return CALL("cuDeviceGet"); }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "NVIDIA H200", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 9 : 0; return 0; }
"""


def build(folder: Path, fails: str) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    (folder / "driver.c").write_text(DRIVER)
    made = folder / f"lib{fails or 'cuda'}.so"
    command = ["gcc", "-shared", "-fPIC", f'-DFAILS="{fails}"', str(folder / "driver.c"), "-o", str(made)]
    subprocess.run(command, check=True, timeout=60)
    return str(made)


@pytest.mark.parametrize(
    ("fails", "found"), [("", Gpu("NVIDIA H200", "cuda:90")), ("cuInit", None), ("cuDeviceGet", None)]
)
def test_the_driver_names_its_gpu(tmp_path: Path, fails: str, found: Gpu | None) -> None:
    """And none where it has none, or hides it."""
    assert first_gpu(build(tmp_path, fails)) == found


def test_without_a_driver_there_is_no_gpu(tmp_path: Path) -> None:
    """Nor with a library that is another one."""
    assert first_gpu(str(tmp_path / "libcuda.so.1")) is None
    assert first_gpu("libc.so.6") is None
