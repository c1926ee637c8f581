"""How vLLM is told what to do (vllm/config, 0.33.0): nested dataclasses, of which a few fields stand for all."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any


class Mode(enum.IntEnum):
    VLLM_COMPILE = 3


@dataclasses.dataclass
class ParallelConfig:
    rank: int = 0
    data_parallel_index: int = 0
    tensor_parallel_size: int = 1
    master_port: int = 29500


@dataclasses.dataclass
class SpeculativeConfig:
    num_speculative_tokens: int = 0


@dataclasses.dataclass
class ModelConfig:
    model: str = "standin"
    limit_mm_per_prompt: dict[str, int] = dataclasses.field(default_factory=dict)
    hf_config: Any = None
    hf_token: str | None = None


@dataclasses.dataclass
class CompilationConfig:
    mode: Mode = Mode.VLLM_COMPILE
    splitting_ops: list[str] = dataclasses.field(default_factory=lambda: ["attention"])
    local_cache_dir: str = ""
    static_forward_context: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class VllmConfig:
    model_config: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    parallel_config: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    speculative_config: SpeculativeConfig = dataclasses.field(default_factory=SpeculativeConfig)
    compilation_config: CompilationConfig = dataclasses.field(default_factory=CompilationConfig)
    instance_id: str = ""
