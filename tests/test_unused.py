"""Why what was fetched ahead is not used: the reasons that no two hosts of a test can have."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tritonsync.format.bundle import Digest
from tritonsync.format.manifest import Environment, Manifest
from tritonsync.session.context import Host
from tritonsync.session.unused import Graph, why_unused
from tritonsync.sync.caches import LocalCaches

HERE = Environment(torch="2.13.0", triton="3.6.0", device="NVIDIA H200")
GRAPH: Graph = ("fx_graph", "f" * 52)


@dataclasses.dataclass(frozen=True)
class Lookups:
    asked: frozenset[Graph] = frozenset({("fx_graph", "another")})
    used: frozenset[Graph] = frozenset()


def said(
    made: Environment = HERE, folder: str = "/cache", lookups: Lookups | None = None, misses: int = 1
) -> str | None:
    """Return what is said of one graph that was fetched."""
    manifest = Manifest(
        format=1,
        kind=GRAPH[0],
        key=GRAPH[1],
        variant="default",
        generation=0,
        guards="",
        created="2026-11-27T00:00:00Z",
        environment=made,
        kernels=(),
        payloads=(),
        pack=Digest(size=1, sha256="0" * 64),
        compile_seconds=1.0,
    )
    caches = LocalCaches(Path("/cache"), lambda _: Path("/triton"), lambda _: Path("/triton"))
    host = Host(lambda: caches, lambda: "x86_64:avx2", lambda: HERE)
    return why_unused({GRAPH: (Path(folder), manifest)}, lookups or Lookups(), misses, lambda: host)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (Environment(torch="2.14.0"), "they were made with torch 2.14.0, and this is 2.13.0"),
        (Environment(torch="2.13.0", triton="3.7.0"), "they were made with triton 3.7.0, and this is 3.6.0"),
        (Environment(device="NVIDIA H100"), "they were made with device NVIDIA H100, and this is NVIDIA H200"),
    ],
)
def test_another_host(made: Environment, reason: str) -> None:
    """What torch puts into its keys is named, if it differs."""
    line = said(made)
    assert line == f"1 of 1 graphs that were fetched ahead were not used, and torch compiled: {reason}"


def test_another_folder() -> None:
    """The program has chosen its folder after they were put into another one."""
    assert str(said(folder="/before")).endswith("they are in /before, and it looks into /cache now")


def test_guards_that_do_not_hold() -> None:
    """It asked for the very key, and compiled all the same."""
    assert "asked for 1 of them" in str(said(lookups=Lookups(asked=frozenset({GRAPH}))))


def test_other_keys() -> None:
    assert "it asked for other keys" in str(said())


def test_nothing_is_said_where_nothing_was_compiled() -> None:
    """Nor where what was fetched was used, and more was compiled."""
    assert said(misses=0) is None
    assert said(lookups=Lookups(used=frozenset({GRAPH}))) is None
