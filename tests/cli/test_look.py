from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.raw import RawBucket
from tritonsync.cli.describe import DISPENSABLE, HEADERS
from tritonsync.cli.table import fitted


def key_of(bucket: RawBucket, kind: str) -> str:
    return bucket.names(f"^bundles/{kind}/")[0].split("/")[2]


def test_ls_lists_every_bundle(run: Run, vit: RawBucket) -> None:
    """Each bundle is one row; the workload that lists it stands beside it."""
    listed = run("ls", "--url", vit.url, "--json").json
    places = {(bundle["kind"], bundle["key"], bundle["variant"]): bundle for bundle in listed["bundles"]}
    assert len(places) == listed["bundles_total"] == len(vit.names("manifest.json")) == 4
    graph = places[("fx_graph", key_of(vit, "fx_graph"), "default")]
    assert (graph["kernels"], graph["workloads"], graph["environment"]["target"]) == (14, ["vit"], "cuda:90")
    text = run("ls", "--url", vit.url).out.splitlines()
    assert len(text) == 6
    assert all(any(key in line for line in text) for _, key, _ in places)


def test_ls_of_one_kind_and_of_the_newest(run: Run, vit: RawBucket) -> None:
    """`--kind` and `--limit` narrow the list, and what is left out is said."""
    assert {b["kind"] for b in run("ls", "--url", vit.url, "--kind", "fx_graph", "--json").json["bundles"]} == {
        "fx_graph"
    }
    newest = run("ls", "--url", vit.url, "--limit", "1")
    assert "the newest 1 shown" in newest.out
    assert run("ls", "--url", vit.url, "--kind", "nonsense").code == 2


def test_ls_of_a_folder_that_is_not_there(run: Run, tmp_path: Path) -> None:
    """It is not an empty bucket: the URL may be a typo."""
    ran = run("ls", "--url", tmp_path / "none")
    assert (ran.code, ran.out) == (1, "")
    assert f"there is no folder {tmp_path / 'none'}" in ran.err


def test_ls_of_an_empty_bucket(run: Run, folder: RawBucket) -> None:
    """Nothing is there, and that is no error: it is so before the first push."""
    assert run("ls", "--url", folder.url, "--json").json["bundles"] == []
    assert run("ls", "--url", folder.url).out.startswith("0 bundles")


def test_ls_names_a_bundle_that_cannot_be_used(run: Run, vit: RawBucket) -> None:
    """A damaged manifest is listed with what is wrong."""
    name = vit.only("bundles/aot_autograd/.*/manifest.json")
    vit.damage(name, "truncate")
    ran = run("ls", "--url", vit.url)
    assert ran.code == 0
    assert name in ran.err


@pytest.mark.parametrize("how", ["{key}", "{half}", "fx_graph/{key}", "fx_graph/{key}/default"])
def test_show_finds_a_key(how: str, run: Run, vit: RawBucket) -> None:
    """By the whole key, by the beginning of it, and with its kind."""
    key = key_of(vit, "fx_graph")
    shown = run("show", how.format(key=key, half=key[:20]), "--url", vit.url, "--json")
    assert shown.code == 0
    graph = next(bundle for bundle in shown.json["bundles"] if bundle["variant"] == "default")
    assert (graph["key"], len(graph["kernels"])) == (key, 14)


def test_show_prints_what_a_person_wants_to_know(run: Run, vit: RawBucket) -> None:
    """Where it was made, and each kernel with its name."""
    shown = run("show", key_of(vit, "fx_graph"), "--url", vit.url).out
    assert "triton 3.6.0" in shown
    assert "14 kernels" in shown
    assert "triton_poi_fused" in shown


def test_workloads_of_a_graph_are_named_from_all_lists(
    run: Run, vit: RawBucket, h200_vit: Path, tmp_path: Path
) -> None:
    """By `ls` and `show`: of other workloads, and of lists that a newer one has replaced."""
    graph = f"fx_graph/{key_of(vit, 'fx_graph')}/default"
    assert run("push", "--url", vit.url, "--workload", "other", "--inductor-dir", h200_vit).code == 0
    copytree(h200_vit / "aotautograd", tmp_path / "less" / "aotautograd")
    assert run("push", "--url", vit.url, "--workload", "vit", "--inductor-dir", tmp_path / "less").code == 0
    [shown] = run("show", graph, "--url", vit.url, "--json").json["bundles"]
    assert shown["workloads"] == ["other", "vit"]
    assert "workloads       other, vit" in run("show", graph, "--url", vit.url).out
    listed = run("ls", "--url", vit.url, "--kind", "fx_graph", "--json").json["bundles"]
    assert [bundle["workloads"] for bundle in listed] == [["other", "vit"]] * 2  # the graph, and its autotune results


def test_show_of_a_workload_lists_its_bundles(run: Run, vit: RawBucket, h200_vit: object) -> None:
    """A workload's name is a key, in any case."""
    shown = run("show", "ViT", "--url", vit.url).out
    assert f"fx_graph/{key_of(vit, 'fx_graph')}/default" in shown
    assert str(h200_vit) in shown


def test_show_of_a_kernel_names_who_holds_it(run: Run, vit: RawBucket) -> None:
    """A kernel hash, or its beginning, leads to its files and its bundles."""
    kernel = next(name for name in vit.names("^kernels/") if name.endswith(".cubin")).split("/")[1]
    for name in (kernel, kernel[:16]):
        [build] = run("show", name, "--url", vit.url, "--json").json["kernels"]
        assert build["hash"] == kernel
        assert len(build["files"]) == 8
        assert [prefix.split("/")[1] for prefix in build["bundles"]] == ["fx_graph"]


def test_show_of_nothing_and_of_too_much(run: Run, vit: RawBucket) -> None:
    """An unknown name is an error; so is the beginning of several keys, which are then named."""
    unknown = run("show", "nothing-like-this", "--url", vit.url)
    assert (unknown.code, unknown.out) == (1, "")
    assert "nothing-like-this" in unknown.err
    graph = key_of(vit, "fx_graph")
    another = graph[:8] + "another"
    copytree(Path(vit.url, "bundles/fx_graph", graph), Path(vit.url, "bundles/fx_graph", another))
    several = run("show", graph[:8], "--url", vit.url)
    assert several.code == 1
    assert another in several.err
    assert graph in several.err


def test_ls_by_workload_and_in_another_order(run: Run, vit: RawBucket) -> None:
    """What a workload lists, and the largest or the first key first."""
    listed = run("ls", "--url", vit.url, "--workload", "VIT", "--json").json["bundles"]
    assert sorted(bundle["kind"] for bundle in listed) == ["aot_autograd", "fx_graph", "fx_graph", "workload"]
    sizes = [bundle["size"] for bundle in run("ls", "--url", vit.url, "--sort", "size", "--json").json["bundles"]]
    assert sizes == sorted(sizes, reverse=True)
    keys = [bundle["key"] for bundle in run("ls", "--url", vit.url, "--sort", "key", "--json").json["bundles"]]
    assert keys == sorted(keys)


def test_ls_of_a_workload_that_nobody_pushed(run: Run, vit: RawBucket) -> None:
    """It is an error, as for commands that take one: the name may be a typo."""
    for options in ((), ("--kind", "fx_graph")):
        ran = run("ls", "--url", vit.url, "--workload", "nobody", *options, "--json")
        assert (ran.code, ran.json["error"]["kind"], ran.json["error"]["workload"]) == (
            1,
            "UnknownWorkloadError",
            "nobody",
        )
        assert "no workload named 'nobody'" in ran.err
    assert run("ls", "--url", vit.url, "--workload", "VIT", "--kind", "pgo").out.startswith("0 bundles, 0 B")


def test_the_total_of_ls_is_that_of_what_matches(run: Run, vit: RawBucket, h200_vit: Path) -> None:
    """Whether it is shown or not."""

    def listed(*options: str) -> dict[str, Any]:
        return run("ls", "--url", vit.url, "--json", *options).json

    assert run("push", "--url", vit.url, "--workload", "other", "--inductor-dir", h200_vit).code == 0
    everything = listed()
    sizes = dict.fromkeys(("fx_graph", "aot_autograd", "workload"), 0)
    for bundle in everything["bundles"]:
        sizes[bundle["kind"]] += bundle["size"]
    assert everything["bytes_total"] == sum(sizes.values())
    for kind in (*sizes, "pgo"):
        assert listed("--kind", kind)["bytes_total"] == sizes.get(kind, 0)
        assert listed("--kind", kind, "--limit", "1")["bytes_total"] == sizes.get(kind, 0)
    found = listed("--workload", "vit")
    assert found["bytes_total"] == sum(bundle["size"] for bundle in found["bundles"]) < everything["bytes_total"]
    assert listed("--workload", "vit", "--limit", "1")["bytes_total"] == found["bytes_total"]
    for order in ("size", "key"):
        assert "5 bundles, the first 1 shown" in run("ls", "--url", vit.url, "--sort", order, "--limit", "1").out
    assert "5 bundles, the newest 1 shown" in run("ls", "--url", vit.url, "--limit", "1").out


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_table_fits_the_screen(width: int) -> None:
    """Keys are cut in the middle, and the least telling columns go first; the kind and the size stay."""
    key = "f" + "jpzc354wiibahmbvpzaybrggekrm6wzy6lwhvidctq7eqhilhaa"
    row = ("aot_autograd", key, "default", "14", "394.8 kB", "2 s", "2.11.0", "3.6.0", "cuda:90", "vit")
    headers, rows = fitted(HEADERS, [row, row], width, cuttable="KEY", dispensable=DISPENSABLE)
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    assert sum(widths) + 3 * (len(widths) - 1) + 2 <= width
    assert {"KIND", "KEY", "SIZE"} <= set(headers)
    shown = rows[0][list(headers).index("KEY")]
    assert key.startswith(shown.partition("…")[0])
    assert (shown == key) == (width == 200)
    assert ("TARGET" in headers) == (width >= 120)
