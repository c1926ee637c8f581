from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ran, Run
from tests.raw import RawBucket
from tritonsync.cli.explain import width
from tritonsync.local.gpu import first_gpu
from tritonsync.local.inductor_cache import default_inductor_dir
from tritonsync.watch.last_run import keep_report

#: The beginning of a graph's key.
GRAPH = "fjpzc354wiib"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU, hide it from its driver."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert first_gpu() is None


def obstacles(ran: Ran) -> dict[str, list[str]]:
    """Return, by kind, what keeps its bundle from being served; one bundle a kind."""
    assert ran.code == 0, ran.err
    return {each["kind"]: [found["part"] for found in each["obstacles"]] for each in ran.json["bundles"]}


def cache_of(data: Path, name: str, target: Path) -> Path:
    """Copy one of the folders of `dynamic-cpu.tar.xz`, so that it is this user's own."""
    import tarfile

    with tarfile.open(data / "dynamic-cpu.tar.xz") as archive:
        archive.extractall(target, filter="data")
    return target / name


def test_a_workload_of_another_machine(run: Run, raw: RawBucket, h200_vit: Path) -> None:
    """On any kind of bucket it is said which of its bundles this host would not be served, and why."""
    where = ("--url", raw.url, "--storage-options", json.dumps(raw.options))
    assert run("push", *where, "--workload", "vit", "--inductor-dir", h200_vit).code == 0
    ran = run("why", "ViT", *where, "--json")
    assert obstacles(ran) == {"workload": ["GPU"], "fx_graph": ["GPU"], "aot_autograd": ["GPU"]}
    [graph] = [each for each in ran.json["bundles"] if each["kind"] == "fx_graph"]
    assert graph["obstacles"] == [{"part": "GPU", "here": "none", "there": "cuda:90"}]
    assert (ran.json["served"], ran.json["here"]["device"]) == (0, None)
    text = " ".join(run("why", "vit", *where).out.split())
    assert "0 of 3 bundles would be served here" in text
    assert "here none there cuda:90" in text


def test_one_key(run: Run, vit: RawBucket) -> None:
    """Its beginning is enough."""
    ran = run("why", GRAPH, "--url", vit.url, "--json")
    assert obstacles(ran)["fx_graph"] == ["GPU"]
    assert run("why", GRAPH, "--url", vit.url).out.startswith(f"fx_graph/{GRAPH}")


@pytest.mark.parametrize(
    ("how", "part", "says"),
    [
        ("truncate pack", "damaged", "bytes instead of"),
        ("delete pack", "damaged", "missing"),
        ("truncate manifest", "damaged", "not a manifest"),
        ("delete everything", "gone", "expired or removed"),
    ],
)
def test_what_is_damaged_or_gone(run: Run, vit: RawBucket, how: str, part: str, says: str) -> None:
    """It is told apart from what is for others, and nothing is read twice to know it."""
    verb, what = how.split()
    for name in vit.names("^bundles/aot_autograd/" + ("" if what == "everything" else f".*{what}")):
        vit.damage(name, verb)
    assert obstacles(run("why", "vit", "--url", vit.url, "--json"))["aot_autograd"][0] == part
    assert says in " ".join(run("why", "vit", "--url", vit.url).out.split())


def test_what_nobody_trusted_has_signed(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """With keys to trust, unsigned bundles are refused, whatever else they are; the list itself is one of them."""
    assert run("keygen", "--out", tmp_path / "keys").code == 0
    trusted = str(tmp_path / "keys" / "trusted-key.pem")
    ran = run("why", GRAPH, "--url", vit.url, "--json", TRITONSYNC_TRUSTED_KEYS=trusted)
    assert obstacles(ran) == {"fx_graph": ["signature"]}
    assert "not signed" in run("why", GRAPH, "--url", vit.url, TRITONSYNC_TRUSTED_KEYS=trusted).out
    ran = run("why", "vit", "--url", vit.url, "--json", TRITONSYNC_TRUSTED_KEYS=trusted)
    assert obstacles(ran) == {"workload": ["signature"]}


def test_another_cpu_and_another_rank(run: Run, folder: RawBucket, tmp_path: Path) -> None:
    """Graphs with CPU code are for one kind of CPU, and say for which."""
    cache = cache_of(Path(__file__).parents[1] / "data", "50", tmp_path)
    assert run("push", "--url", folder.url, "--workload", "w", "--inductor-dir", cache).code == 0
    same = run("why", "w", "--url", folder.url, "--json")
    assert obstacles(same) == {"fx_graph": [], "aot_autograd": []}
    other = run("why", "w", "--url", folder.url, "--json", ATEN_CPU_CAPABILITY="default")
    if same.json["here"]["cpu"] != other.json["here"]["cpu"]:
        assert obstacles(other) == {"fx_graph": ["CPU"], "aot_autograd": []}
    ranked = run("why", "w", "--url", folder.url, "--json", RANK="3", WORLD_SIZE="64")
    assert ranked.json["here"]["rank"] == {"world": 64, "rank": 3}


def test_a_key_that_the_bucket_lacks_is_compared_with_the_nearest(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """Found in this host's own cache, by its beginning; what differs is named."""
    cache = cache_of(Path(__file__).parents[1] / "data", "50", tmp_path)
    [key] = [path.name for path in cache.glob("fxgraph/*/*")]
    ran = run("why", key[:16], "--url", vit.url, "--inductor-dir", cache, "--json", TRITONSYNC_WORKLOAD="vit")
    assert ran.code == 0, ran.err
    [why] = ran.json["why"]
    assert (why["key"], why["state"]) == (key, "differs")
    assert GRAPH in why["bundle"]
    assert {"torch", "GPU", "graph", "input 0"} <= {each["part"] for each in why["differences"]}
    text = run("why", key, "--url", vit.url, "--inductor-dir", cache).out
    assert f"nearest: fx_graph/{GRAPH}" in text


def test_a_bucket_written_before_tells_too(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """Manifests without digests: the parts are then read from the values."""
    for name in vit.names("^bundles/fx_graph/.*manifest"):
        document = json.loads(vit.read(name))
        if "inline" in document and document["variant"] == "default":
            del document["inline"]
            document["payloads"] = [each for each in document["payloads"] if each["name"] != "key_parts.json"]
            from tritonsync.format import manifest as manifests

            data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
            old = manifests.decode(data, name)
            folder = Path(vit.url) / name.rpartition("/")[0]
            shutil.copytree(folder, Path(vit.url) / old.place.prefix)
            shutil.rmtree(folder)
            vit.write(old.place.manifest, data)
    cache = cache_of(Path(__file__).parents[1] / "data", "50", tmp_path)
    [key] = [path.name for path in cache.glob("fxgraph/*/*")]
    ran = run("why", key, "--url", vit.url, "--inductor-dir", cache, "--json")
    assert {"torch", "graph"} <= {each["part"] for each in ran.json["why"][0]["differences"]}


def test_wrong_questions(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """Nothing to explain is wrong usage; what is nowhere, or no report, is an error that says what to do."""
    assert run("why", "--url", vit.url).code == 2
    assert run("why", "vit", "--report", tmp_path / "x", "--url", vit.url).code == 2
    nowhere = run("why", "nothing-like-this", "--url", vit.url)
    assert (nowhere.code, nowhere.out) == (1, "")
    assert "nothing-like-this" in nowhere.err
    (tmp_path / "report.json").write_text("{}")
    for name in ("report.json", "absent.json"):
        ran = run("why", "--report", tmp_path / name)
        assert ran.code == 1
        assert name in ran.err


def test_without_a_question_the_last_run_is_told_else_the_workload_in_force(
    run: Run, vit: RawBucket, tmp_path: Path
) -> None:
    """A report that is given comes before both."""
    told = run("why", "--url", vit.url, TRITONSYNC_WORKLOAD="vit")
    assert told.out.startswith("workload vit in")
    why = {"kind": "triton", "key": "K", "name": "add", "state": "differs", "reason": "r", "bundle": None, "made": None}
    why["differences"] = [{"part": "num_warps", "here": "8", "there": "4"}]  # type: ignore[assignment]
    report = {"command": "python a.py", "started": "2026-11-27T00:00:00Z", "url": "/b", "why": [why]}
    keep_report(default_inductor_dir(str(tmp_path / "cache")), report)
    last = run("why", "--url", vit.url, "--inductor-dir", tmp_path / "cache", TRITONSYNC_WORKLOAD="vit")
    assert last.out.startswith("python a.py, 2026-11-27")
    assert "num_warps\n    here   8\n    there  4\n" in last.out
    (tmp_path / "report.json").write_text(json.dumps({**report, "command": "python b.py"}))
    given = run("why", "--report", tmp_path / "report.json", "--inductor-dir", tmp_path / "cache")
    assert given.out.startswith("python b.py")


DIFFERENCE = {"part": "num_warps", "here": "8", "there": None}
WHY = {"kind": "triton", "key": None, "name": "add", "state": "differs", "reason": "r", "bundle": None, "made": None}


@pytest.mark.parametrize(
    "report",
    [
        {"why": [{}]},
        {"why": [7]},
        {"why": [{**WHY, "differences": [{"part": "num_warps"}]}]},
        {"why": [{**WHY, "differences": [{**DIFFERENCE, "here": 8}]}]},
        {"why": [{**WHY, "differences": [DIFFERENCE], "made": 7}]},
        {"why": [], "engine": "s3fs"},
        {"why": [], "command": ["python"]},
    ],
)
def test_a_report_that_lacks_something_is_none(report: object, run: Run, tmp_path: Path) -> None:
    """It is one line that says how to make one, and with `--json` an object."""
    (tmp_path / "report.json").write_text(json.dumps(report))
    ran = run("why", "--report", tmp_path / "report.json", "--json")
    assert (ran.code, ran.json["error"]["kind"]) == (1, "LocalCacheError")
    assert "report.json is no report that says why; make one with" in ran.err
    (tmp_path / "report.json").write_text(json.dumps({"why": [{**WHY, "differences": [DIFFERENCE]}]}))
    assert run("why", "--report", tmp_path / "report.json").code == 0


def deny(path: Path, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a function refuse this one path."""
    original = getattr(owner, name)

    def denying(given: object, *args: Any, **kwargs: Any) -> Any:
        if str(given) == str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(given))
        return original(given, *args, **kwargs)

    monkeypatch.setattr(owner, name, denying)


@pytest.mark.parametrize("damage", ["nonsense", "denied"])
def test_a_last_run_that_cannot_be_read(
    damage: str, run: Run, vit: RawBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error where it is what was asked for, and a note where a workload was."""
    cache = default_inductor_dir(str(tmp_path / "cache"))
    keep_report(cache, {"why": []})
    path = cache / ".tritonsync" / "last-run.json"
    path.write_text("nonsense")
    if damage == "denied":
        # As below a folder of another user; root may read everything.
        deny(path, os, "open", monkeypatch)
        deny(path, Path, "stat", monkeypatch)
    ran = run("why", "vit", "--url", vit.url, "--inductor-dir", cache)
    assert ran.code == 0
    assert ran.out.startswith("workload vit in")
    assert ran.err.startswith("tritonsync: the last run is not looked at: ")
    assert len(ran.err.splitlines()) == 1
    ran = run("why", "--url", vit.url, "--inductor-dir", cache, TRITONSYNC_WORKLOAD="vit")
    assert (ran.code, ran.out) == (1, "")
    assert str(path) in ran.err


def test_of_a_key_the_last_run_is_remembered(run: Run, vit: RawBucket, tmp_path: Path) -> None:
    """Also where the bucket has it since."""
    why = {"kind": "fx_graph", "key": f"{GRAPH}x", "name": "g", "state": "new", "reason": "the bucket knew nothing"}
    why |= {"bundle": None, "made": None, "differences": []}  # type: ignore[dict-item]
    report = {"command": "python a.py", "started": "2026-11-27T00:00:00Z", "url": "/b", "why": [why]}
    keep_report(default_inductor_dir(str(tmp_path / "cache")), report)
    for what in (GRAPH, f"{GRAPH}x"):
        ran = run("why", what, "--url", vit.url, "--inductor-dir", tmp_path / "cache")
        assert ran.code == 0, ran.err
        assert "python a.py, 2026-11-27T00:00:00Z, said:\ngraph g" in ran.out
        assert ("served here" in ran.out) == (what == GRAPH)


@pytest.mark.parametrize("columns", ["40", "80"])
def test_lines_fit_the_screen(run: Run, vit: RawBucket, tmp_path: Path, columns: str) -> None:
    """Whatever is explained."""
    cache = cache_of(Path(__file__).parents[1] / "data", "50", tmp_path)
    [key] = [path.name for path in cache.glob("fxgraph/*/*")]
    for what in ("vit", GRAPH, key):
        text = run("why", what, "--url", vit.url, "--inductor-dir", cache, COLUMNS=columns).out
        assert max(map(len, text.splitlines())) <= int(columns)


def test_a_screen_that_nobody_knows_has_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is any so narrow that nothing fits."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert width() >= 20
    monkeypatch.setenv("COLUMNS", "1")
    assert width() == 20
