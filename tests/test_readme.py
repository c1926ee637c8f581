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
from typer.testing import CliRunner

from tests.folders import LAYOUTS, contents, install, make_folder
from tests.folders import VARIABLES as VARIABLES_OF_PRESETS
from tests.raw import RawBucket
from tritonsync.cli.app import app
from tritonsync.format import manifest as manifests
from tritonsync.local.presets import PRESETS
from tritonsync.settings import VARIABLES, Settings
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.environment import environment_of_folder
from tritonsync.sync.push import push
from tritonsync.watch.metrics import write_metrics

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

#: Variables that are not in the table, and why. One that gets there must go from here.
UNDOCUMENTED = {
    "TRITONSYNC_LOG": "in the text below the table",
    "TRITONSYNC_METRICS": "in the text below the table",
    "TRITONSYNC_BUNDLES": "in the section on other libraries",
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


def test_the_tour_works_as_it_stands(tmp_path: Path, h200_vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of it is run, after the push and with the counters that it speaks of."""
    [tour] = [block for block in blocks("sh") if "tritonsync show" in block]
    lines = ["tritonsync push --workload vit", *tour.splitlines()]
    assert {shlex.split(line)[1] for line in lines} == COMMANDS.keys() - {"demo", "keygen", "version"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("print('trained')")
    write_metrics("counters.jsonl", "vit", {"hits": 3, "misses": 1})
    (tmp_path / "bucket").mkdir()
    environ = {"TRITONSYNC_URL": str(tmp_path / "bucket"), "TORCHINDUCTOR_CACHE_DIR": str(h200_vit)}
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line)[1:], env=environ)
        assert done.exit_code == 0, f"{line}: {done.stderr}"


def test_the_table_of_variables_is_that_of_the_settings() -> None:
    """Each variable in it exists, has the default that it says, and none is left out but with a reason."""
    rows = dict(re.findall(r"^\| `(TRITONSYNC_[A-Z_]+)` \| ([^|]*?) \|", README, re.MULTILINE))
    ours = {variable for variable, _ in VARIABLES.values() if variable.startswith("TRITONSYNC_")}
    assert rows.keys() | UNDOCUMENTED.keys() == ours
    assert not rows.keys() & UNDOCUMENTED.keys()
    assert len(rows) <= 9
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


def test_the_answer_of_why_is_what_it_says(tmp_path: Path, h200_vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same workload, but for this host, the place of the bucket, and the time of the push."""
    [(command, expected)] = re.findall(r"^\$ (tritonsync why .*?)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("TRITONSYNC_URL", str(tmp_path / "bucket"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    push(
        RawBucket(str(tmp_path / "bucket")).store(environment=environment_of_folder(h200_vit / "triton")),
        LocalCaches.at(h200_vit),
        h200_vit / "triton",
        "vit",
    )
    ran = CliRunner().invoke(app, shlex.split(command)[1:])
    assert ran.exit_code == 0

    def bare(text: str) -> str:
        text = re.sub(r"this host: .*?\n\n", "", text, flags=re.DOTALL)
        text = "".join(text.split()).replace(str(tmp_path / "bucket"), "/tmp/bucket")
        return re.sub(r"workload/vit/\d+", "", text)

    assert bare(ran.stdout) == bare(expected)


def test_the_outputs_that_are_shown_are_those_of_the_commands(
    tmp_path: Path, h200_vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for times, ages, the number of requests, the last digits of sizes, and where bucket and caches are."""
    monkeypatch.setenv("TRITONSYNC_URL", str(tmp_path / "bucket"))
    [(pushed, pulled)] = re.findall(r"^```\n(pushed .*?\n)(pulled .*?\n)```$", README, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^\$ tritonsync (ls --wide|verify)\n(.*?)\n(?=\n)", README, re.MULTILINE | re.DOTALL)
    assert len(shown) == 2

    def bare(text: str) -> str:
        places = {"bucket": "/tmp/bucket", "here": "/tmp/torchinductor_me"}
        for name, place in places.items():
            text = text.replace(str(tmp_path / name), place)
        text = text.replace(str(h200_vit), places["here"])
        text = re.sub(r"\b[\d.]+ (s|requests)\b", r"some \1", text)
        # Paths and versions of this host are in what is published.
        text = re.sub(r"\b([\d.]+) kB", lambda found: f"{float(found[1]):.2g} kB", text)
        return " ".join(re.sub(r"\b82\d{8}\b", "generation", text).split())

    commands = [("push --workload vit", h200_vit, pushed), ("pull --workload vit", tmp_path / "here", pulled)]
    for command, cache, expected in [*commands, *((command, h200_vit, expected) for command, expected in shown)]:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
        ran = CliRunner().invoke(app, shlex.split(command))
        assert bare(ran.stdout) == bare(expected)


def test_the_bundles_are_those_of_the_presets() -> None:
    """Each has its row, with the variable of its folder and everything that must be the same."""
    rows = re.findall(r"^\| `([a-z-]+)` \| [^|]* \| `([A-Z_]+)` \| ([^|]*) \|$", README, re.MULTILINE)
    named = {name: (variable, facts.split(", ")) for name, variable, facts in rows}
    assert named == {
        preset.name: (preset.variable, [*(names[0] for names in preset.libraries), *preset.facts])
        for preset in PRESETS.values()
    }
    pull = COMMANDS["pull"]
    assert all(name in next(each.help for each in pull.params if each.name == "bundle") for name in PRESETS)


def test_the_bundles_that_are_shown_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two commands run, from one host to the other."""
    [block] = [block for block in blocks("sh") if "--bundle" in block]
    push_line, pull_line, export = block.splitlines()
    monkeypatch.setenv("TRITONSYNC_URL", str(tmp_path / "bucket"))
    for name in ("deep-gemm", "tilelang", "apache-tvm-ffi"):
        install(name, tmp_path / "site", monkeypatch)
    for line, at in ((push_line, "here"), (pull_line, "there")):
        for preset in ("deepgemm", "tilelang"):
            monkeypatch.setenv(VARIABLES_OF_PRESETS[preset], str(tmp_path / at / preset))
            if at == "here":
                make_folder(preset, tmp_path / at / preset)
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        assert done.exit_code == 0, done.stderr
    for preset in ("deepgemm", "tilelang"):
        assert contents(tmp_path / "there" / preset) == LAYOUTS[preset]
    assert Settings.from_env(dict([shlex.split(export, comments=True)[1].split("=")])).bundles == (
        "deepgemm",
        "tilelang",
    )


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
