"""The README cannot lie: what it shows is run or compared with the program."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from tests.raw import RawBucket
from tritonsync.cli.app import app
from tritonsync.format import manifest as manifests
from tritonsync.settings import VARIABLES
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.push import push

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

#: Variables that are not in the table, and why. One that gets there must go from here.
UNDOCUMENTED = {
    "TRITONSYNC_METRICS": "in the text below the table",
    "TRITONSYNC_ENGINE": "in the section on speed",
    "TRITONSYNC_FLUSH_S": "in the text below it",
    "TRITONSYNC_NAMESPACE": "in the text below it",
    "TRITONSYNC_QUIET": "in the text below it",
    "TRITONSYNC_STRICT": "for tests",
    "TRITONSYNC_VLLM_ARTIFACT": "in the section on serving",
    "TRITONSYNC_REPORT_DIR": "set by `tritonsync run` for its child",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def anchors(markdown: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_first_two_commands_stand_alone() -> None:
    """Each is one line that makes its own environment; `.ci/run` runs these very lines."""
    first, second = blocks("sh")[:2]
    for block in (first, second):
        assert len(block.splitlines()) == 1
        assert block.startswith("python3 -m venv .venv && .venv/bin/pip install")
    assert "tritonsync demo" in first
    assert "pytest" in second


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_documented(name: str) -> None:
    """It stands in the table, and has help."""
    assert re.search(rf"^\| `tritonsync {name}[ `]", README, re.MULTILINE)
    assert COMMANDS[name].help


def test_documented_commands_and_options_exist() -> None:
    """Every command line in the README is one that the program takes."""
    lines = [line for block in (*blocks("sh"), *blocks("")) for line in block.splitlines()]
    lines += re.findall(r"`(tritonsync [^`]*)`", README)
    found = 0
    for line in lines:
        if not line.removeprefix("$ ").startswith("tritonsync ") or line.startswith("tritonsync COMMAND"):
            continue
        words = shlex.split(line.removeprefix("$ "), comments=True)
        command, options = COMMANDS[words[1]], [word for word in words[2:] if word.startswith("--") and word != "--"]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(options) <= known, line
        found += 1
    assert found >= len(COMMANDS)
    for row in re.findall(r"^\| `tritonsync (\w+).*$", README, re.MULTILINE):
        shown = re.search(rf"^\| `tritonsync {row}.*$", README, re.MULTILINE)
        assert shown is not None
        known = {option for parameter in COMMANDS[row].params for option in parameter.opts}
        assert set(re.findall(r"`(--[a-z-]+)", shown[0])) <= known


def test_the_table_of_variables_is_that_of_the_settings() -> None:
    """Each variable in it exists, has the default that it says, and none is left out but with a reason."""
    rows = dict(re.findall(r"^\| `(TRITONSYNC_[A-Z_]+)` \| ([^|]*?) \|", README, re.MULTILINE))
    ours = {variable for variable, _ in VARIABLES.values() if variable.startswith("TRITONSYNC_")}
    assert rows.keys() | UNDOCUMENTED.keys() == ours
    assert not rows.keys() & UNDOCUMENTED.keys()
    assert len(rows) <= 9
    from tritonsync.settings import Settings

    for field, (variable, _) in VARIABLES.items():
        if variable in rows:
            default = getattr(Settings(), field)
            shown = f"{default:g}" if isinstance(default, float) else str(default or "none")
            assert rows[variable].strip("`") == shown


def test_variables_of_others_are_those_that_are_read() -> None:
    """Cache folders are found by the variables that the text names."""
    read = {variable for variable, _ in VARIABLES.values()}
    assert {"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"} <= read
    named = set(re.findall(r"\b(?:TRITONSYNC|TORCHINDUCTOR|TRITON)_[A-Z_]+\b", README))
    # Triton reads these two itself.
    assert named <= read | {"TRITON_CACHE_MANAGER", "TRITON_CACHE_AUTOTUNING"}


def test_the_python_block_runs(tmp_path: Path, h200_vit: Path) -> None:
    """It prints what the bucket holds."""
    store = RawBucket(str(tmp_path / "kernels")).store()
    caches = LocalCaches.at(h200_vit)
    push(store, caches, h200_vit / "triton", "vit")
    [program] = blocks("python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "None 1\n")


def test_the_manifest_that_is_shown_has_the_fields_of_one() -> None:
    """No field is made up."""
    [shown] = blocks("json")
    document = json.loads(shown)
    assert set(document) <= set(manifests.Manifest.__struct_fields__)
    assert set(document["environment"]) <= set(manifests.Environment.__struct_fields__)
    [kernel] = document["kernels"]
    assert set(kernel) == set(manifests.KernelEntry.__struct_fields__)
    assert set(kernel["files"][0]) == set(manifests.FileEntry.__struct_fields__)


def test_links_lead_somewhere() -> None:
    """Files exist, and headings too."""
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = ROOT / path if path else ROOT / "README.md"
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_versions_are_those_that_the_tests_use() -> None:
    """What `Works with` names is what `.[test]` installs."""
    pins = dict(re.findall(r'"(torch|triton)==([\d.]+)"', (ROOT / "pyproject.toml").read_text()))
    assert f"| {pins['torch']} (CPU) | {pins['triton']} |" in README
