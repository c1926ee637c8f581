"""The parts of the benchmark suite: what it measures with is real, and its arithmetic is right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.bench import one
from tests.bench.__main__ import Cost, Row, exponent, line
from tests.bench.caches import synthetic
from tests.servers import Place
from tritonsync.local import triton_cache


def test_a_synthetic_cache_goes_through_a_bucket_and_back(h200_vit: Path, tmp_path: Path) -> None:
    """Its kernels are finished, different from each other, and pass every check that real ones pass."""
    cache = synthetic(tmp_path / "cache", 20, h200_vit)
    found = [triton_cache.collect(folder.path, 0) for folder in triton_cache.scan(cache / "triton")]
    assert len({kernel.content_id for kernel in found if kernel is not None}) == 20
    place = dataclasses.asdict(Place(str(tmp_path / "bucket"), {}, "", {}, ""))
    assert one.main("publish", place, cache)["bytes"] > 0
    assert one.main("verify", place, cache)["seconds"] > 0
    restored = one.main("restore", place, tmp_path / "restored")
    assert restored["peak_mb"] > 1
    written = sorted(path.relative_to(tmp_path / "restored") for path in (tmp_path / "restored").rglob("*.cubin"))
    assert written == sorted(path.relative_to(cache) for path in cache.rglob("*.cubin"))


@pytest.mark.parametrize(("power", "factor"), [(1.0, 0.01), (0.0, 4.0), (1.5, 2.0)])
def test_the_exponent_of_growth_is_found(power: float, factor: float) -> None:
    """Of a power it is the power, whatever the factor."""
    rows = [Row("restore", "made", n, 20, "way", (Cost(factor * n**power, 0, 1),)) for n in (10, 100, 1000)]
    assert exponent(rows, "seconds") == pytest.approx(power)


def test_ratios_are_to_the_first_way() -> None:
    """Under 1: the first is faster."""
    fast = Row("restore", "vit", 15, 20, "ours", (Cost(1.0, 0.1, 4), Cost(2.0, 0.1, 4), Cost(4.0, 0.1, 4)))
    slow = dataclasses.replace(fast, way="theirs", costs=(Cost(8.0, 1.0, 100),))
    assert "2.000 [1.500 3.000]" in line(fast, [fast])
    assert line(slow, [fast, slow]).split()[4] == "0.25"
