"""Two runs of one program between which one thing changes: the second one says what."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.conftest import Worker
from tests.raw import RawBucket

TRAIN = """
import sys

import torch
import torch._inductor.config

from layer import layer

if "config" in sys.argv:
    torch._inductor.config.max_autotune_gemm_search_space = "EXHAUSTIVE"
dtype = torch.float64 if "dtype" in sys.argv else torch.float32
torch.compile(layer)(torch.ones(4, 8, dtype=dtype), torch.ones(8, 8, dtype=dtype))
"""
LAYER = """
import torch

def layer(x, w):
    return torch.mm(x, w){}
"""
KERNEL = """
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

@triton.jit
def copy(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at))

signature = {"x": "*fp32", "y": "*fp32", "BLOCK": "constexpr"}
source = ASTSource(copy, signature=signature, constexprs={"BLOCK": int(sys.argv[1])})
triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": int(sys.argv[2])})
"""


@dataclasses.dataclass(frozen=True)
class Project:
    """A folder with a program, and the bucket that its first run filled."""

    worker: Worker
    folder: Path
    bucket: Path

    def run(self, *arguments: str, **variables: str) -> tuple[dict[str, Any], str]:
        """Run it with an empty cache under `tritonsync run`; return the report, and stderr."""
        number = len(list(self.folder.glob("cache*")))
        cache, report = self.folder / f"cache{number}", self.folder / f"report{number}.json"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tritonsync",
                "run",
                "--report",
                str(report),
                "--",
                *self.worker.command(*arguments),
            ],
            env=self.worker.environ(self.bucket, cache, TRITONSYNC_STRICT="1", **variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(report.read_text())
        return found, done.stderr


@pytest.fixture(scope="module")
def trained(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A training that has run once."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text(TRAIN)
    (folder / "layer.py").write_text(LAYER.format(""))
    project = Project(dataclasses.replace(worker, program=folder / "train.py"), folder, folder / "bucket")
    report, said = project.run()
    [why] = report["why"]
    assert (why["state"], report["graphs"]) == ("new", [why["key"]])
    assert "the bucket knew nothing of workload" in said
    assert report["engine"] == {"name": "file", "reason": "obstore is used for S3 and GCS only"}
    return project


@pytest.mark.parametrize(
    ("changed", "part", "here", "there"),
    [
        ("config", "config max_autotune_gemm_search_space", "EXHAUSTIVE", "DEFAULT"),
        ("dtype", "input 0 dtype", "torch.float64", "torch.float32"),
        ("source", "source of layer.py", None, None),
    ],
)
def test_the_one_thing_that_changed_is_named(
    trained: Project, changed: str, part: str, here: str | None, there: str | None
) -> None:
    """In the report, and in the line that is said at the end; the graph of the first run is the nearest."""
    source = trained.folder / "layer.py"
    source.write_text(LAYER.format(".sin()" if changed == "source" else ""))
    report, said = trained.run(changed, TRITONSYNC_MODE="read-only")
    source.write_text(LAYER.format(""))
    [why] = report["why"]
    assert why["state"] == "differs"
    assert why["differences"][0] == {"part": part, "here": here, "there": there}
    assert {each["part"].partition(" ")[0] for each in why["differences"]} <= {part.partition(" ")[0], "input", "graph"}
    with RawBucket(str(trained.bucket)) as raw:
        [name] = raw.names("^bundles/fx_graph/.*manifest.json")
        assert f"{why['bundle']}manifest.json" == name
        assert b'"layer.py":' in raw.read(name).replace(b"\\", b"")
    assert f"differs from the nearest: {part}" in said


def test_a_kernel_says_what_differs_from_the_build_that_is_there(worker: Worker, tmp_path: Path) -> None:
    """Its options or its constants; afterwards `tritonsync why` says it again."""
    (tmp_path / "kernel.py").write_text(KERNEL)
    project = Project(
        dataclasses.replace(worker, program=tmp_path / "kernel.py", zygote=None), tmp_path, tmp_path / "bucket"
    )
    variables = {"TRITONSYNC_MODE": "read-only", "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    first, _ = project.run("64", "4", TRITON_CACHE_DIR=str(tmp_path / "first"))
    assert [why["state"] for why in first["why"]] == ["new"]
    [why] = project.run("64", "8", **variables)[0]["why"]
    assert (why["name"], why["state"]) == ("copy", "differs")
    assert why["differences"] == [{"part": "num_warps", "here": "8", "there": "4"}]
    [why] = project.run("128", "4", **variables)[0]["why"]
    assert [each["part"] for each in why["differences"]] == ["source"]
    assert ("128" in why["differences"][0]["here"], "64" in why["differences"][0]["there"]) == (True, True)
    asked = subprocess.run(
        [sys.executable, "-m", "tritonsync", "why"],
        env=worker.environ(tmp_path / "bucket", tmp_path / "cache2"),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "compiled: 1 kernel\n" in asked.stdout
    assert why["key"] in asked.stdout
    with RawBucket(str(tmp_path / "bucket")) as raw:
        for name in raw.names("manifest.json$"):
            assert json.loads(raw.read(name))["environment"]["target"] == "cuda:90"
