import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.conftest import Dynamic
from tritonsync.errors import ValueSplitError
from tritonsync.format.facts import ValueFacts, read_facts
from tritonsync.format.kernel import Kernel


def test_facts_of_a_real_fx_value(vit_fx: bytes, vit_kernels: dict[str, Kernel]) -> None:
    """A GPU graph: no guards, no CPU code, each static autotuner's kernels among the bundled ones."""
    facts = read_facts(vit_fx)
    assert (facts.guards, facts.extern_libs_key, facts.fx_graphs) == ("", "", ())
    assert facts.device_types == {"cuda"}
    assert not facts.uses_cpp
    assert facts.compile_seconds == 5.903
    assert facts.kernel_hashes == vit_kernels.keys()
    assert len(facts.static_kernels) == 14
    assert set(facts.static_kernels) == facts.kernel_hashes


def test_facts_of_a_real_aot_value(h200_vit: Path, vit_aot: bytes) -> None:
    """An AOTAutograd value names the FX value it points to; it holds no kernels itself."""
    facts = read_facts(vit_aot)
    (fx_key,) = (path.name for path in (h200_vit / "fxgraph").glob("*/*"))
    assert facts.fx_graphs == ((fx_key, ""),)
    assert (facts.kernel_hashes, facts.static_kernels, facts.device_types) == (frozenset(), (), frozenset())
    assert facts.compile_seconds == 7.588
    assert not facts.uses_cpp


def test_autotune_files_are_found_through_the_facts(h200_vit: Path, vit_fx: bytes) -> None:
    """Each `.best_config` of a real cache belongs to its graph by kernel hash, and by the folder of its source."""
    facts = read_facts(vit_fx)
    configs = list(h200_vit.glob("*/*.best_config"))
    assert len(configs) == 3
    for path in configs:
        assert json.loads(path.read_text())["triton_cache_hash"] in facts.kernel_hashes
        assert {source.name for source in path.parent.glob("*.py")} & facts.kernel_sources
    on_disk = {path.name for path in h200_vit.glob("*/*.py")}
    assert len(facts.kernel_sources) == 11
    assert facts.kernel_sources <= on_disk


def test_facts_of_dynamic_values(dynamic: dict[int, Dynamic]) -> None:
    """Guard variants stand under one key, each with its own expression, which the AOTAutograd value repeats."""
    guards = {}
    for rows, value in dynamic.items():
        fx, aot = read_facts(value.fx), read_facts(value.aot)
        assert fx.device_types == {"cpu"}
        assert fx.uses_cpp
        assert not aot.uses_cpp
        assert aot.fx_graphs == ((value.fx_key, fx.guards),)
        assert min(fx.compile_seconds, aot.compile_seconds) > 0
        guards[rows] = fx.guards
    assert dynamic[50].fx_key == dynamic[200].fx_key
    assert guards == {
        50: "2 <= L['t0'] and L['t0'] <= 100",
        200: "101 <= L['t0'] and L['t0'] <= 4096",
    }


def test_facts_of_a_bundled_aot_value(bundled_aot: bytes, triton_kernels: list[Kernel]) -> None:
    """An AOTAutograd value that holds its graphs points to no FX value and has the facts of both."""
    facts = read_facts(bundled_aot)
    assert facts.fx_graphs == ()
    assert facts.device_types == {"cpu"}
    assert facts.kernel_hashes == {kernel.hash for kernel in triton_kernels}


@pytest.mark.parametrize("value", [None, [], {"guards_expr": ""}, "text", b"bytes", Path("/x")])
def test_other_pickles_are_refused(value: object) -> None:
    """A pickle that is no value of torch has no facts: nobody may take it for one without guards."""
    with pytest.raises(ValueSplitError, match="neither"):
        read_facts(pickle.dumps(value, 4))


def _altered(value: bytes, old: bytes, new: bytes) -> bytes:
    assert value.count(old) == 1
    assert len(old) == len(new)
    return value.replace(old, new)


def test_a_form_that_is_not_known_is_refused_or_taken_for_cpu_code(dynamic: dict[int, Dynamic], vit_aot: bytes) -> None:
    """Where a later torch renamed what decides, the value is not taken for one that everybody may use."""
    fx = dynamic[50].fx
    for name in (b"guards_expr", b"device_types"):
        with pytest.raises(ValueSplitError):
            read_facts(_altered(fx, b"\x8c" + bytes([len(name)]) + name, b"\x8c" + bytes([len(name)]) + name[::-1]))
    assert read_facts(_altered(vit_aot, b"fx_graph_cache_info", b"fx_graph_cache_xxxx")).uses_cpp


@given(st.data())
def test_flipped_and_cut_values_give_facts_or_one_error(dynamic: dict[int, Dynamic], data: st.DataObject) -> None:
    """Damage of any kind gives facts or a ValueSplitError, nothing else."""
    value = data.draw(st.sampled_from([dynamic[50].fx, dynamic[50].aot]))
    flipped = bytearray(value)
    for _ in range(data.draw(st.integers(1, 5))):
        flipped[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        facts = read_facts(bytes(flipped))
    except ValueSplitError:
        return
    assert isinstance(facts, ValueFacts)
    facts.guards.encode()


def test_one_text_in_a_million_graphs_is_refused() -> None:
    """A value cannot make the reader search one large text again and again."""
    graph = b"\x8c\x1ctorch._inductor.output_code\x8c\x0fCompiledFxGraph\x93\x94)\x81}\x8c\x0bguards_exprNsb0"
    graph = graph.replace(b"\x1c", bytes([len("torch._inductor.output_code")]))
    one = b"\x80\x04" + graph
    again = b"h\x00)\x81"
    with pytest.raises(ValueSplitError, match="graphs"):
        read_facts(one + again + b"}\x8c\x0bguards_exprNsb" + (again + b"0") * 100_000 + b".")
