"""Where vLLM keeps the compiled pieces of a model (vllm/compilation/caching.py, 0.33.0)."""

from __future__ import annotations

from typing import Any


class StandaloneCompiledArtifacts:
    """The bytes of each compiled piece, by name and shape."""

    def __init__(self) -> None:
        self.submodule_bytes: dict[str, bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"submodule_bytes": self.submodule_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.submodule_bytes = state["submodule_bytes"]
