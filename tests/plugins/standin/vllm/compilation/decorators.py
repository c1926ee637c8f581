"""Where vLLM looks for the artifact of a model (vllm/compilation/decorators.py, 0.33.0)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def _try_load_aot_compiled_fn(model: Any, aot_compilation_path: str) -> Any:
    try:
        with Path(aot_compilation_path).open("rb") as file:
            loaded = torch.compiler.load_compiled_function(file, f_globals=model.forward.__globals__)
    except FileNotFoundError:
        return None
    loaded.disable_guard_check()
    return loaded
