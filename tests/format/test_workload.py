"""Lists of workloads: what is read of one that somebody else wrote."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonsync.errors import FormatError
from tritonsync.format import manifest as manifests
from tritonsync.format.manifest import Environment
from tritonsync.format.workload import LIST, Workload, WorkloadEntry, bundle_of_workload, workload_of_manifest

GOOD = WorkloadEntry(kind="fx_graph", key="fkey", variant="default")
MANIFEST = manifests.describe(
    bundle_of_workload("run", Workload(inductor_dir="/cache", entries=(GOOD,))),
    created="2026-11-23T03:44:55Z",
    environment=Environment(),
    pack=None,
    inline=frozenset({LIST}),
)


def read(text: str) -> Workload:
    return workload_of_manifest(msgspec.structs.replace(MANIFEST, inline={LIST: text}))


def with_entry(entry: Any) -> Workload:
    good = msgspec.to_builtins(GOOD)
    return read(json.dumps({"inductor_dir": "/cache", "entries": [good, entry, good]}))


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "triton", "key": "../..", "variant": "default"},
        {"kind": "triton", "key": "..", "variant": "default"},
        {"kind": "triton", "key": "/etc/passwd", "variant": "default"},
        {"kind": "triton", "key": "a\0b", "variant": "default"},
        {"kind": "pgo", "key": "a\0b", "variant": "default"},
        {"kind": "fx_graph", "key": "f" * 5000, "variant": "default"},
        {"kind": "pgo", "key": "f" * 5000, "variant": "default"},
        {"kind": "fx_graph", "key": "", "variant": "default"},
        {"kind": "fx_graph", "key": "\ud800", "variant": "default"},
        {"kind": "pgo", "key": "\ud800", "variant": "default"},
        {"kind": "fx_graph", "key": "f/../x", "variant": "default"},
        {"kind": "fx_graph", "key": "fkey", "variant": "../.."},
        {"kind": "fx_graph", "key": "fkey", "variant": "0000"},
        {"kind": "pgo", "key": "job", "variant": "0123456789abcdef"},
        {"kind": "workload", "key": "run", "variant": "default"},
        {"kind": "unknown", "key": "run", "variant": "default"},
        {"kind": "x" * 100_000, "key": "run", "variant": "default"},
        {"kind": "fx_graph", "key": 7, "variant": "default"},
        {"kind": "fx_graph", "key": "fkey"},
        ["fx_graph", "fkey", "default"],
        None,
        10**400,
    ],
    ids=lambda entry: json.dumps(entry)[:40],
)
def test_a_bad_entry_costs_that_entry(entry: Any) -> None:
    """It is counted and described in a few words; the others are read."""
    workload = with_entry(entry)
    assert workload.entries == (GOOD, GOOD)
    assert workload.refused == 1
    assert workload.refusal.startswith("1 entries of workload run are left out; the first: ")
    assert len(workload.refusal) < 400


@pytest.mark.parametrize(
    "item",
    [
        "[" * 200_000 + "]" * 200_000,
        '{"x":' * 200_000 + "1" + "}" * 200_000,
        "",
        "nan",
        '{"kind":"\ud800"}',
        "[,]",
        "}{",
    ],
    ids=lambda item: item[:20],
)
def test_an_entry_that_is_no_json_costs_that_entry(item: str) -> None:
    """However deep it is nested."""
    good = msgspec.json.encode(GOOD).decode()
    workload = read(f'{{"inductor_dir":"/x","entries":[{good},{item},{good}]}}')
    assert (workload.entries, workload.refused) == ((GOOD, GOOD), 1)


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "pgo", "key": "job:0:../tag", "variant": "7777777777"},
        {"kind": "triton", "key": "HASH", "variant": "NVIDIA-H200"},
        {"kind": "aot_autograd", "key": "akey", "variant": "0123456789abcdef"},
        {"kind": "dynamo", "key": "dkey", "variant": "default", "added later": 1},
    ],
)
def test_what_writers_list_is_read(entry: Any) -> None:
    """Keys of profiles hold what a user calls a job."""
    assert (len(with_entry(entry).entries), with_entry(entry).refused) == (3, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"inductor_dir":"/x"}',
        '{"inductor_dir":1,"entries":[]}',
        '{"inductor_dir":"/x","entries":{}}',
        '{"inductor_dir":"/x","entries":[' + "[" * 200_000,
        '{"inductor_dir":"/x","other":[1],"entries":[1]}',
        '{"inductor_dir":"/x","entries":["\\"' * 100_000,
        '{"x":' + '{"x":' * 200_000,
        '{"inductor_dir":"\ud800","entries":[]}',
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_list_is_a_format_error(text: str) -> None:
    """200,000 levels of brackets among them; the message is short."""
    with pytest.raises(FormatError, match=r"workload run: .* is not a list of bundles") as caught:
        read(text)
    assert len(str(caught.value)) < 400


def test_a_list_that_is_too_long_is_not_read() -> None:
    """Nor is it written."""
    with pytest.raises(FormatError, match="more than 50000 entries"):
        read('{"inductor_dir":"/x","entries":[' + "0," * 1_000_000 + "0]}")
    entries = tuple(WorkloadEntry(kind="fx_graph", key=f"f{number}", variant="default") for number in range(50_001))
    with pytest.raises(FormatError, match="50001 entries"):
        bundle_of_workload("run", Workload(inductor_dir="/x", entries=entries))


def test_what_was_refused_is_not_written_again() -> None:
    """A list that is published after a bad one was read holds good entries only."""
    workload = with_entry(None)
    bundle = bundle_of_workload("run", workload)
    assert json.loads(bundle.payload(LIST) or b"") == {"inductor_dir": "/cache", "entries": [msgspec.to_builtins(GOOD)]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
fields = st.sampled_from(["kind", "key", "variant", "x"])
known = st.sampled_from(["fx_graph", "triton", "pgo", "workload", "default", "..", "a\0b", "0123456789"]) | json_values


@given(st.lists(st.dictionaries(fields, known, max_size=4) | json_values, max_size=5) | json_values)
def test_any_json_is_a_list_or_a_format_error(entries: Any) -> None:
    """Whatever stands there; and each entry that is read can be asked for."""
    try:
        workload = read(json.dumps({"inductor_dir": "/x", "entries": entries}))
    except FormatError:
        return
    assert len(workload.entries) + workload.refused == len(entries)
    for entry in workload.entries:
        assert "\0" not in entry.key
        assert entry.kind == "pgo" or "/" not in entry.key
