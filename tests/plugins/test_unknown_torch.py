"""A torch that lacks what is plugged into: everything is taken back, and said once."""

from __future__ import annotations

import logging
import types
from collections.abc import Iterator
from typing import Any

import pytest

from tritonsync.plugins import inductor


class _Cache:
    @staticmethod
    def _write_to_local_cache(key: str, content: Any) -> None:
        """Write nothing: the signature is torch's."""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    inductor.remove()
    yield
    inductor.remove()


def test_a_class_that_is_gone_takes_everything_back(caplog: pytest.LogCaptureFixture) -> None:
    """What was patched before it was missed is as it was, and no other module is patched."""
    original = _Cache._write_to_local_cache
    module: Any = types.SimpleNamespace(AOTAutogradCache=_Cache)
    with caplog.at_level(logging.WARNING):
        inductor.patch_autograd_cache(module)
        assert _Cache._write_to_local_cache is original
        module.AOTAutogradCacheArtifact = types.SimpleNamespace(populate_cache=None)
        inductor.patch_autograd_cache(module)
    assert _Cache._write_to_local_cache is original
    [said] = [record.getMessage() for record in caplog.records if "stays out of torch.compile" in record.getMessage()]
    assert "AOTAutogradCacheArtifact" in said
