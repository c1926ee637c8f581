from __future__ import annotations

import hashlib
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import CompiledKernels
from tritonsync.format import manifest as manifests
from tritonsync.format.bundle import Bundle
from tritonsync.format.facts import key_parts_of_value, read_facts
from tritonsync.format.kernel import Kernel, KernelFile
from tritonsync.format.key_parts import (
    KEY_PARTS,
    Difference,
    KeyParts,
    Part,
    differences,
    files_in_traces,
    groups_of_parts,
    key_parts_of,
    key_parts_payload,
    parts_of_kernel,
    parts_of_lines,
)
from tritonsync.format.value import bundle_of_value, value_of_bundle
from tritonsync.local import triton_cache

TENSOR = "TensorMetadata(dtype=torch.{}, shape=torch.Size([{}, 8]), stride=(8, 1), device=device(type='cpu'))"


def line(name: str, text: str) -> str:
    """Write a part as torch does; its hash is that of its text."""
    return f"[{hashlib.sha256(text.encode()).hexdigest().translate(str.maketrans('0189', 'ghij'))[:51]}] {name}: {text}"


def parts(**given: str) -> tuple[Part, ...]:
    known = {
        "gm": "f(x)\n  mm = a\n  return mm",
        "torch_version": "?",
        "example_inputs[0]": TENSOR.format("float32", 4),
    }
    known |= {"inductor_config[max_autotune]": "False", "fx_kwargs[get_decomp_fn]": "<function f at 0x1f>"}
    return parts_of_lines(line(name, text) for name, text in (known | given).items())


def described(bundle: Bundle) -> manifests.Manifest:
    inline = frozenset({KEY_PARTS})
    environment = manifests.Environment()
    return manifests.describe(bundle, created="2026-11-27T00:00:00Z", environment=environment, pack=None, inline=inline)


def test_a_real_value_tells_what_its_key_is_made_of(h200_vit: Path) -> None:
    """All parts of torch 2.11's key are told apart, and each belongs to a group that says what it is."""
    [path] = h200_vit.glob("fxgraph/*/*/*")
    found = key_parts_of_value(path.read_bytes())
    names = {part.name: part for part in found}
    assert sum(name.startswith("example_inputs[") for name in names) == 153
    assert names["system_info[device]"].text == "{'name': 'NVIDIA H200'}"
    assert names["gm"].text.startswith("<lambda>()\n")
    assert {part.group for part in found} == {
        *("torch", "gpu", "triton", "derived", "code", "inputs", "config", "passes", "call", "settings")
    }
    assert read_facts(path.read_bytes()).key_parts == groups_of_parts(found)


def test_digests_stand_in_the_manifest_and_nowhere_else(h200_vit: Path) -> None:
    """Of each group, and of the sources; a value is as it was without them, and small beside it."""
    [path] = h200_vit.glob("fxgraph/*/*/*")
    value = path.read_bytes()
    bundle = bundle_of_value("fx_graph", path.parent.name, value, sources={"vit.py": "0" * 16})
    manifest = described(bundle)
    told = key_parts_of(manifest)
    assert set(told.groups) >= {"torch", "gpu", "code", "inputs", "config"}
    assert told.sources == {"vit.py": "0" * 16}
    assert KEY_PARTS not in {name for name, _ in manifest.members()}
    assert len((manifest.inline or {})[KEY_PARTS]) < 500
    assert value_of_bundle(bundle) == value
    assert manifests.decode(manifests.encode(manifest), "x") == manifest


@pytest.mark.parametrize("text", ["", "[", "[]", '{"groups":1}', '{"groups":{"code":2}}', "[" * 10_000, "null"])
def test_what_tells_nothing_is_nothing(text: str) -> None:
    """A bundle without digests, or with some that cannot be read, is one that does not tell."""
    from tritonsync.format.bundle import Payload

    payloads = (Payload(KEY_PARTS, text.encode()),) if text else ()
    assert key_parts_of(described(Bundle("fx_graph", "k", payloads=payloads))) == KeyParts()
    assert key_parts_payload({}, {"a.py": "0"}) is None


def test_what_is_no_line_of_torch_is_left_out() -> None:
    """Values come from a bucket: nothing in them is an error here."""
    odd: list[Any] = [None, 7, b"x", "", "[short] gm: x", line("a b", "x"), "[" * 1000, line("x[\ud800]", "y")]
    found = parts_of_lines(odd)
    assert [part.name for part in found] == ["x[\ud800]"]
    assert set(groups_of_parts(found)) == {"settings"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"inductor_config[max_autotune]": "True"}, [("config max_autotune", "True", "False")]),
        (
            {"example_inputs[0]": TENSOR.format("bfloat16", 4)},
            [("input 0 dtype", "torch.bfloat16", "torch.float32")],
        ),
        ({"example_inputs[0]": TENSOR.format("float32", 6)}, [("input 0 shape", "[6, 8]", "[4, 8]")]),
        ({"gm": "f(x)\n  mm = b\n  return mm"}, [("graph", "mm = b", "mm = a")]),
        ({"gm": "f(x)\n  mm = a"}, [("graph", "(ends)", "return mm")]),
        ({"torch_version": "!"}, [("torch", None, None)]),
        ({"fx_kwargs[get_decomp_fn]": "<function f at 0x2f>"}, [("get_decomp_fn", None, None)]),
        ({"user_defined_triton_source[0]": "x"}, [("source of Triton kernel 0", "x", "none")]),
        ({"default_dtype": "torch.float16"}, [("default_dtype", "torch.float16", "none")]),
        ({"system_info[hash]": "x"}, []),
    ],
)
def test_what_differs_is_named(changed: dict[str, str], told: list[tuple[str, str | None, str | None]]) -> None:
    """With what it is here and there, where that can be shown."""
    assert differences(parts(**changed), parts()) == [Difference(*each) for each in told]


def test_what_explains_more_comes_first() -> None:
    """Another torch before another graph, and that before its inputs and options."""
    here = parts(
        **{"inductor_config[max_autotune]": "True", "torch_version": "!", "gm": "g", "example_inputs[0]": "('s0',)"}
    )
    assert [each.part for each in differences(here, parts())] == ["torch", "graph", "input 0", "config max_autotune"]


@pytest.mark.parametrize("unit", ["TensorMetadata(", "x=", "(,", "\n", " ", "loc(", " at 0x1f", "[", "x, "])
@pytest.mark.parametrize("name", ["example_inputs[0]", "gm", "inductor_config[x]"])
def test_a_part_of_any_length_takes_no_longer(unit: str, name: str) -> None:
    """It stands in a value that came from a bucket; what is shown of it is short."""
    ours = [Part(name, "a", TENSOR.format("float32", 4))]
    theirs = [Part(name, "b", f"TensorMetadata({unit * (2_000_000 // len(unit))})")]
    started = time.process_time()
    told = [*differences(ours, theirs), *differences(theirs, ours), *differences(theirs, [])]
    assert time.process_time() - started < 2
    assert told
    assert all(len(text) <= 160 for each in told for text in (each.part, each.here, each.there) if text is not None)


@pytest.mark.parametrize("unit", ["x", "()", "x()", "loc(", "loc(()", "loc(a(b)"])
def test_a_location_of_any_length_costs_little(unit: str) -> None:
    """In memory neither: the source of a kernel came from a bucket."""
    source = f"f loc({unit * (500_000 // len(unit))}".encode()
    contents = {"k.source": source, "k.json": b"{}", "k.cubin": b"x", "__grp__k.json": b"{}"}
    kernel = Kernel(hash="A" * 52, device=0, files=tuple(KernelFile(*file) for file in contents.items()))
    tracemalloc.start()
    try:
        started = time.process_time()
        [part] = parts_of_kernel(kernel)
        assert time.process_time() - started < 2
        assert tracemalloc.get_traced_memory()[1] < 10 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert part.name == "source"


def test_a_kernel_tells_of_its_source_options_and_target(compiled_kernels: CompiledKernels) -> None:
    """Two targets of one source differ in the target; a kernel does not differ from itself at another path."""
    found = [triton_cache.collect(compiled_kernels.directory / name, None) for name in compiled_kernels.hashes]
    kernels = [kernel for kernel in found if kernel is not None]
    told = parts_of_kernel(kernels[0])
    assert {"target", "triton_version", "source", "line", "option[num_warps]"} <= {part.name for part in told}
    assert "loc(" not in next(part.text for part in told if part.name == "source")
    assert differences(told, parts_of_kernel(kernels[0])) == []
    assert "GPU target" in [each.part for each in differences(told, parts_of_kernel(kernels[-1]))]


def test_files_are_read_off_traces() -> None:
    """Each once, whatever else stands there."""
    trace = '  File "/a/train.py", line 3, in f\n    return g(x)\n  File "/b/m.py", line 7, in g\n    return x\n'
    assert files_in_traces([trace, None, trace, "nothing", 'File "x']) == {"/a/train.py", "/b/m.py"}


def test_digests_are_equal_wherever_they_are_made() -> None:
    """They depend on names and hashes, and on the order of torch's lines, alone."""
    assert groups_of_parts(parts()) == groups_of_parts(parts())
    one, other = groups_of_parts(parts()), groups_of_parts(parts(gm="g"))
    assert {name for name in one if one[name] != other[name]} == {"code"}
    assert json.loads((key_parts_payload(one, {}) or pytest.fail("none")).data)["groups"] == one
