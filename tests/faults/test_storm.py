"""Half a minute of everything at once on each kind of object store; `python -m tests.faults` goes on for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.storm import BUDGET_S, COMMAND_S, Storm, table
from tests.kernels import CompiledKernels
from tests.servers import Server

SECONDS = 25.0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["moto_server", "fakegcs_server"])
def test_a_storm(kind: str, request: pytest.FixtureRequest, h200_vit: Path, compiled_kernels: CompiledKernels) -> None:
    """Nothing wrong is read, nothing half is left, nothing fails, and no wait is longer than its limit."""
    server: Server = request.getfixturevalue(kind)
    storm = Storm(server, h200_vit, compiled_kernels.directory, seed=1)
    counted = storm.run(SECONDS, writers=3, readers=5)  # fewer than usual: other tests run beside it
    shown = "\n".join([table({kind: counted}), *counted.notes])
    assert not any(counted.failures.values()), shown
    assert counted.faults > 0, shown
    assert counted.longest_command_s < COMMAND_S, shown
    assert counted.longest_wait_s < BUDGET_S + 1, shown
