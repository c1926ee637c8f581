"""Hostile bytes for every reader of the format: a short run of what `python -m tests.fuzz` does for hours."""

from __future__ import annotations

import random
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fuzz
from tritonsync.errors import FormatError

TARGETS = {target.name: target for target in fuzz.targets()}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_real_inputs_are_accepted(name: str) -> None:
    """What is changed at random is right to begin with."""
    for data in TARGETS[name].seeds:
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_changed_inputs_are_accepted_or_refused(name: str, tmp_path: Path) -> None:
    """No other exception, nothing slow, no endless message."""
    tally = fuzz.fuzz([TARGETS[name]], 1.0, seed=7, finds=tmp_path)
    assert tally.count[name] > 0
    assert tally.found == {}


@pytest.mark.parametrize("name", sorted(TARGETS))
@settings(max_examples=60)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(name: str, data: bytes) -> None:
    """What was never anything of ours, too."""
    with pytest.raises(FormatError):
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", ["manifest", "workload"])
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_hostile_json_is_accepted_or_refused(name: str, seed: int) -> None:
    """One value or key of a real document is another one."""
    choose = random.Random(seed)
    data = fuzz.changed_json(choose.choice(TARGETS[name].seeds), choose)
    tally = fuzz.Tally(Path(tempfile.gettempdir()))
    tally.run(TARGETS[name], data)
    assert tally.found == {}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("manifest", rb'"format":1', b'"format":' + b"9" * 4000),
        ("manifest", rb'"generation":\d+', b'"generation":' + b"9" * 4000),
        ("manifest", rb'"kind":"\w+"', b'"kind":"' + b"x" * 1_000_000 + b'"'),
        ("manifest", rb'"inline":', b'"inline":' + b"[" * 1_000_000),
        ("skeleton", rb'"size":\d+', b'"size":' + b"9" * 4000),
        ("skeleton", rb'"cuts":\[', b'"cuts":[[1,"a","' + b"x" * 1_000_000 + b'"],'),
        ("skeleton", rb'"cuts":\[', b'"' + b"x" * 1_000_000 + b'":1,"cuts":['),
    ],
)
def test_what_is_long_is_shown_in_part(name: str, old: bytes, new: bytes) -> None:
    """A message has some words of it."""
    changed = [data for seed in TARGETS[name].seeds if (data := re.sub(old, lambda _: new, seed, count=1)) != seed]
    assert changed
    for data in changed:
        with pytest.raises(FormatError) as caught:
            TARGETS[name].run(data)
        assert len(str(caught.value)) < 1000


def test_a_find_is_reported(tmp_path: Path) -> None:
    """An exception that is not ours is one, with the input that brought it."""

    def fail(data: bytes) -> None:
        raise KeyError(data[:1])

    tally = fuzz.Tally(tmp_path)
    for data in (b"one", b"two"):
        tally.run(fuzz.Target("broken", fail, [b"x"]), data)
    [(find, path)] = tally.found.items()
    assert find.startswith("broken: KeyError at test_fuzz.py:")
    assert path.read_bytes() == b"one"
    assert "1 finds" in tally.report()
