"""What is said of something that was compiled, in every state that the bucket can be in."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.bundles import make_bundle, make_kernel
from tests.raw import RawBucket
from tritonsync.format.bundle import Bundle
from tritonsync.format.key_parts import Difference, Part, groups_of_parts, key_parts_payload
from tritonsync.format.manifest import Environment
from tritonsync.format.ranks import Rank
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_workload
from tritonsync.local.sources import digests_of_sources
from tritonsync.store import Store
from tritonsync.sync.here import Here, here_of_facts, needs
from tritonsync.sync.why import Compiled, Why, explain

HERE = Here(Environment(torch="2.13.0", triton="3.6.0", python="3.12.3"), "x86_64:avx2", Rank(1, 0))
GRAPH = Compiled("fx_graph", "key", "key", HERE)
LATER = "2999-01-01T00:00:00Z"


def parts(**changed: str) -> tuple[Part, ...]:
    known = {"gm": "mm", "example_inputs[0]": "float32", "inductor_config[max_autotune]": "False"} | changed
    return tuple(Part(name, text, text) for name, text in known.items())


def told(changed: tuple[Part, ...], sources: dict[str, str] | None = None) -> Bundle:
    """Make a bundle whose manifest tells of its key."""
    payload = key_parts_payload(groups_of_parts(changed), sources or {})
    assert payload is not None
    bundle = make_bundle("other")
    return dataclasses.replace(bundle, payloads=(*bundle.payloads, payload))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return RawBucket(str(tmp_path / "bucket")).store(environment=Environment(torch="2.13.0"))


def list_them(store: Store, *bundles: tuple[str, str, str]) -> None:
    entries = tuple(WorkloadEntry(kind=kind, key=key, variant=variant) for kind, key, variant in sorted(bundles))
    store.publish_newest(bundle_of_workload("w", Workload(inductor_dir="/x", entries=entries)), inline=(LIST,))


def why(store: Store, compiled: Compiled, *, before: str | None = None, own: Collection[str] = ()) -> Why:
    [found] = explain(store, "w", [compiled], before=before, own=own)
    return found


def test_a_bucket_that_knows_nothing_of_the_workload(store: Store) -> None:
    """Nor what lies there of others is compared with it."""
    store.publish(make_bundle("another"))
    assert why(store, GRAPH).state == "new"
    assert "knew nothing of workload w" in why(store, GRAPH).reason


def test_what_torch_has_no_key_for_and_what_belongs_to_a_graph(store: Store) -> None:
    """Neither is looked for."""
    assert "why not" in why(store, dataclasses.replace(GRAPH, key=None, refusal="why not")).reason
    assert why(store, dataclasses.replace(GRAPH, key=None)).state == "no key"
    assert why(store, Compiled("triton", "K", "k", HERE, is_of_graph=True)).state == "of a graph"


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"requires": "x86_64:avx512"}, [Difference("CPU", "x86_64:avx2", "x86_64:avx512")]),
        ({"requires": "rank 3 of 64"}, [Difference("rank", "rank 0 of 1", "rank 3 of 64")]),
        ({"requires": "x86_64:avx2; rank 3 of 64"}, [Difference("rank", "rank 0 of 1", "rank 3 of 64")]),
        (
            {"requires": "x86_64:avx512; rank 3 of 64"},
            [Difference("rank", "rank 0 of 1", "rank 3 of 64"), Difference("CPU", "x86_64:avx2", "x86_64:avx512")],
        ),
        ({"guards": "s0 <= 32"}, [Difference("guards", None, "s0 <= 32")]),
    ],
)
def test_a_key_that_is_there_for_others(store: Store, changed: dict[str, str], found: list[Difference]) -> None:
    """For another CPU, another rank, other shapes."""
    store.publish(dataclasses.replace(make_bundle("key"), **changed))  # type: ignore[arg-type]
    said = why(store, GRAPH)
    assert (said.state, list(said.differences)) == ("refused", found)


def test_a_key_that_is_there_for_everybody(store: Store) -> None:
    """Then it was not asked for in time; unless the process itself has published it since."""
    store.publish(make_bundle("key"))
    assert why(store, GRAPH).state == "there"
    assert "given the bucket up" in why(store, dataclasses.replace(GRAPH, is_off=True)).reason
    assert why(store, GRAPH, before=LATER).state == "there"
    assert why(store, GRAPH, before="2001-01-01T00:00:00Z").state == "new"


def test_what_was_published_in_the_second_in_which_a_program_was_started(store: Store) -> None:
    """Of the run before, which has just ended, unless the program says otherwise: manifests state whole seconds."""
    store.publish(make_bundle("key"))
    list_them(store, ("fx_graph", "key", "default"))
    moment = why(store, GRAPH).made
    assert why(store, GRAPH, before=moment).state == "there"
    assert len(store.written) == 2
    assert why(store, GRAPH, before=moment, own=store.written).state == "new"


def test_a_key_that_is_gone(store: Store) -> None:
    """The list still names it."""
    list_them(store, ("fx_graph", "key", "default"))
    assert why(store, GRAPH).state == "gone"


def test_the_nearest_is_the_one_that_differs_least(store: Store) -> None:
    """By the digests in the manifests: the same code with another option is nearer than other code."""
    store.publish(dataclasses.replace(told(parts(gm="sin")), key="far"))
    store.publish(dataclasses.replace(told(parts(**{"inductor_config[max_autotune]": "True"})), key="near"))
    list_them(store, ("fx_graph", "far", "default"), ("fx_graph", "near", "default"))
    said = why(store, dataclasses.replace(GRAPH, parts=parts()))
    assert (said.state, said.differences) == ("differs", (Difference("config", None, None),))
    assert (said.bundle or "").startswith("bundles/fx_graph/near/")


def test_sources_are_named_where_the_code_differs(store: Store) -> None:
    """Of two that are equally far, the one that was traced from the same files is compared."""
    store.publish(dataclasses.replace(told(parts(gm="sin"), {"other.py": "1"}), key="one"))
    store.publish(dataclasses.replace(told(parts(gm="cos"), {"layer.py": "1", "same.py": "2"}), key="two"))
    list_them(store, ("fx_graph", "one", "default"), ("fx_graph", "two", "default"))
    graph = dataclasses.replace(GRAPH, parts=parts(), sources={"layer.py": "9", "same.py": "2", "new.py": "3"})
    assert [each.part for each in why(store, graph).differences] == ["source of layer.py", "code"]


def test_of_another_torch_nothing_else_is_said(store: Store) -> None:
    """Its options have other names, and its graphs other forms."""
    store.publish(told(parts(gm="sin")))
    list_them(store, ("fx_graph", "other", "default"))
    here = dataclasses.replace(HERE, environment=HERE.environment.stating(torch="2.15.0"))
    said = why(store, dataclasses.replace(GRAPH, parts=parts(), here=here))
    assert said.differences == (Difference("torch", "2.15.0", "2.13.0"),)


def test_a_kernel_is_compared_with_one_of_its_name(store: Store) -> None:
    """Or there is none."""
    kernel = make_kernel(1, device=None)
    store.publish(Bundle("triton", kernel.hash, kernels=(kernel,)))
    list_them(store, ("triton", kernel.hash, "default"))
    assert why(store, Compiled("triton", "K", "kernel_1", HERE)).state == "differs"
    assert why(store, Compiled("triton", "K", "another", HERE)).state == "new"


def test_the_record_of_earlier_runs_counts_as_well(store: Store) -> None:
    """A list holds what its own run used; the one before may hold what is nearer."""
    store.publish(told(parts(**{"inductor_config[max_autotune]": "True"})))
    list_them(store, ("fx_graph", "other", "default"))
    list_them(store)
    assert why(store, dataclasses.replace(GRAPH, parts=parts())).state == "differs"


def test_a_bundle_needs_what_its_key_depends_on() -> None:
    """Versions for graphs, the GPU for what is for one; what is not known here is not compared."""
    from tritonsync.format.manifest import describe

    def of(kind: str, variant: str = "default", **made: str) -> list[str]:
        bundle = Bundle(kind, "k", variant=variant)
        manifest = describe(bundle, created="2026-01-01T00:00:00Z", environment=Environment(**made), pack=None)
        return [each.part for each in needs(manifest, HERE)]

    assert of("fx_graph", torch="2.11.0", triton="3.9.0", device="NVIDIA H200") == ["torch", "triton", "GPU"]
    assert of("fx_graph", torch="2.13.0", triton="3.6.0", python="3.11.1") == []
    assert of("dynamo", python="3.11.1") == ["Python"]
    assert of("triton", torch="2.11.0", triton="3.6.0", device="NVIDIA H200") == []
    assert of("triton", variant="cpython-38-x86_64-linux-gnu.so-x86_64") == ["Python"]
    assert of("pgo", torch="2.11.0") == []
    unknown = here_of_facts({"torch": None, "rank": [4, 2], "cpu": "arm64:asimd"}, HERE)
    assert (unknown.environment.torch, unknown.rank, unknown.cpu) == ("2.13.0", Rank(4, 2), "arm64:asimd")
    assert here_of_facts({"rank": None}, HERE).rank is None


def test_sources_are_called_as_they_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the longest entry of sys.path; torch's own, and what is no file, are left out."""
    for name in ("app/models/vit.py", "app/torch/nn.py", "elsewhere/train.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "app"))
    paths = [tmp_path / name for name in ("app/models/vit.py", "app/torch/nn.py", "app/gone.py")]
    found = digests_of_sources([*map(str, paths), "<ipython-input-1>"])
    assert list(found) == ["models/vit.py"]
    paths[0].write_text("changed")
    assert digests_of_sources(map(str, paths)) != found
    assert list(digests_of_sources([str(tmp_path / "elsewhere/train.py")])) == ["elsewhere/train.py"]
