"""The recipes in terraform/examples: each is run as far as a machine without GPUs can run it, and compared with us."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.raw import RawBucket
from tests.terraform.program import SOURCE
from tritonsync.settings import VARIABLES, Settings
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.push import push

EXAMPLES = SOURCE / "examples"
SCRIPTS = ("vllm/serve.sh", "sglang/serve.sh", "slurm/train.sbatch")
PROGRAMS = ("ray/serve.py", "modal/app.py")
#: Tells as JSON how it was called: for programs that are not installed here.
TELL = """#!{python}
import json, os, sys
print(json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}))
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, h200_vit: Path) -> Path:
    """A bucket with the workload `vit` in it."""
    folder = tmp_path_factory.mktemp("recipes") / "bucket"
    push(RawBucket(str(folder)).store(), LocalCaches.at(h200_vit), h200_vit / "triton", "vit")
    return folder


def programs(folder: Path, **texts: str) -> str:
    """Write programs into a folder; return a PATH that begins with it, and with the tritonsync of this tree."""
    folder.mkdir()
    texts["tritonsync"] = f'#!/bin/sh\nPYTHONPATH={SOURCE.parent} exec "{sys.executable}" -m tritonsync "$@"\n'
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def run(command: list[str], path: str, **variables: str) -> str:
    """Run a command in a clean environment; return what it printed."""
    environ = {"PATH": path, "HOME": os.environ.get("HOME", "/"), "USER": "somebody", **variables}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_known(environment: dict[str, str]) -> Settings:
    """Return the settings of an environment; each of our variables must be one that is read."""
    known = {variable for variable, _ in VARIABLES.values()}
    assert {name for name in environment if name.startswith("TRITONSYNC_")} <= known
    return Settings.from_env(environment)


def test_every_recipe_is_tested_and_named() -> None:
    """What lies there is listed here, and in the table of terraform/README.md."""
    files = {str(file.relative_to(EXAMPLES)) for file in EXAMPLES.rglob("*") if file.is_file()}
    recipes = {name for name in files if not name.startswith(("aws/", "gcp/", "kubernetes/"))}
    assert recipes == {*SCRIPTS, *PROGRAMS, "docker/Dockerfile"}
    section = (SOURCE / "README.md").read_text().split("## Elsewhere")[1]
    assert set(re.findall(r"^\| [^|]+ \| \[`examples/([\w./-]+)`\]", section, re.MULTILINE)) == recipes


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_sound(name: str) -> None:
    """They are executable, and the shell that they name takes them."""
    script = EXAMPLES / name
    shell = script.read_text().splitlines()[0].removeprefix("#!")
    assert script.stat().st_mode & stat.S_IXUSR
    subprocess.run([shell, "-n", script], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "program", "called"),
    [
        ("vllm/serve.sh", "vllm", ["serve", "Qwen/Qwen3-8B", "--port", "80"]),
        ("sglang/serve.sh", "python3", ["-m", "sglang.launch_server", "--model-path", "Qwen/Qwen3-8B", "--port", "80"]),
    ],
)
def test_servers_are_started_as_readers(tmp_path: Path, name: str, program: str, called: list[str]) -> None:
    """With the model's own workload; whoever warms it up says so."""
    path = programs(tmp_path / "bin", **{program: TELL.format(python=sys.executable)})
    command = ["sh", str(EXAMPLES / name), "Qwen/Qwen3-8B", "--port", "80"]
    told = json.loads(run(command, path))
    assert told["arguments"] == called
    settings = assert_known(told["environment"])
    assert (settings.is_active, settings.may_write) == (True, False)
    assert settings.workload == f"{name.split('/')[0]}-Qwen3-8B"
    assert assert_known(json.loads(run(command, path, TRITONSYNC_MODE="read-write"))["environment"]).may_write


@pytest.mark.parametrize(("workload", "warm"), [("vit", True), ("unknown", False)])
def test_slurm_nodes_pull_before_the_ranks_start(tmp_path: Path, bucket: Path, workload: str, warm: bool) -> None:
    """The job, run as it stands but for Slurm's and PyTorch's launchers; a cold start does not stop it."""
    tell = TELL.format(python=sys.executable)
    path = programs(tmp_path / "bin", srun='#!/bin/sh\nexec "$@"\n', torchrun=tell)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": workload, "SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "node1"}
    cache = tmp_path / "cache"
    command = ["bash", str(EXAMPLES / "slurm" / "train.sbatch")]
    out = run(command, path, TRITONSYNC_URL=str(bucket), TORCHINDUCTOR_CACHE_DIR=str(cache), **slurm)
    assert ("starts cold" in out) != warm
    assert (cache / "fxgraph").is_dir() == warm
    told = json.loads(out.splitlines()[-1])
    assert told["arguments"][-1] == "train.py"
    settings = assert_known(told["environment"])
    assert (settings.workload, settings.may_write, settings.inductor_dir) == (workload, True, str(cache))


@pytest.mark.parametrize("name", PROGRAMS)
def test_python_recipes_set_what_is_read(name: str) -> None:
    """They compile, and the variables that they pass on are settings of a reader."""
    tree = ast.parse((EXAMPLES / name).read_text())
    compile(tree, name, "exec")
    [value] = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "TRITONSYNC"
    ]
    settings = assert_known(ast.literal_eval(value))
    assert (settings.is_active, settings.may_write) == (True, False)
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "TRITONSYNC"]
    assert len(uses) == 2


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def test_the_build_stage_of_docker_pulls(tmp_path: Path, bucket: Path) -> None:
    """Its command, run as it stands at another path, leaves the folder that the image takes and PyTorch looks into."""
    found = instructions((EXAMPLES / "docker" / "Dockerfile").read_text())
    assert [word for word, _ in found] == ["FROM", "RUN", "ARG", "ARG", "RUN", "FROM", "ENV", "COPY"]
    install, pull = (rest for word, rest in found if word == "RUN")
    assert shlex.split(install)[:2] == ["pip", "install"]
    assert shlex.split(install)[-1] == "tritonsync[s3]"
    defaults = dict(rest.split("=", 1) for word, rest in found if word in ("ARG", "ENV"))
    assert assert_known(defaults).is_active
    folder = defaults["TORCHINDUCTOR_CACHE_DIR"]
    [copied] = [shlex.split(rest) for word, rest in found if word == "COPY"]
    assert copied[-2:] == [folder, folder]
    mount, command = pull.split(" ", 1)
    assert mount.startswith("--mount=type=secret")
    command = command.replace(folder, str(tmp_path / "cache"))
    path = programs(tmp_path / "bin")
    run(["sh", "-c", command], path, TRITONSYNC_URL=str(bucket), TRITONSYNC_WORKLOAD="vit")
    assert (tmp_path / "cache" / "fxgraph").is_dir()
