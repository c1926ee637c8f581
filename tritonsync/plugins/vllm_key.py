"""The key of the artifact that vLLM makes of a model: all that it was told, and all that it may have burnt in.

vLLM's own hash leaves out what it takes to be without effect on the graph, and was wrong about some of it: the number
of speculative tokens (vllm 53366), limits of multimodal inputs (50891), the index of the device (SkyRL 2183), paths
(52154, 47573). On one host that is one wrong artifact; in a bucket it would be everybody's. So everything counts here
but what differs between equal replicas, and where something cannot be told apart, there is no key.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

from tritonsync.plugins.digests import UnknownObjectError, digest_of
from tritonsync.plugins.precompile_key import configuration, environment
from tritonsync.session.session import Session

__all__ = ["key_of"]

#: Changes when artifacts of an earlier release must not be read any more.
_FORMAT = 1
#: What differs between equal replicas, or while one starts; fields of vllm/config, 0.33.0. All others count.
_OF_A_REPLICA = {
    "VllmConfig": {"instance_id"},
    "ModelConfig": {"hf_token"},
    "ParallelConfig": {
        "data_parallel_master_ip",
        "data_parallel_master_port",
        "data_parallel_rpc_port",
        "master_addr",
        "master_port",
        "placement_group",
        "ray_runtime_env",
        "_api_process_count",
        "_api_process_rank",
        "_coord_store_port",
        "_data_parallel_master_port_list",
    },
    "CompilationConfig": {
        "cache_dir",
        "local_cache_dir",
        "debug_dump_path",
        "traced_files",
        "compilation_time",
        "encoder_compilation_time",
        "static_forward_context",
        "static_all_moe_layers",
    },
}
_PLAIN = (type(None), bool, int, float, str, bytes)


def key_of(model: Any, path: Path, now: Session) -> str:  # noqa: ANN401
    """Return the key of a model's artifact, 64 hex digits.

    Args:
        model: the decorated module, with its `vllm_config`.
        path: where vLLM keeps the artifact: its own hash, the rank, and a folder that compiled code may name.
        now: the session.

    Raises:
        UnknownObjectError: the key would not tell it apart from another one.
    """
    facts = [
        _FORMAT,
        environment(now),
        configuration(),
        _wheel(),
        _device(),
        str(path),
        f"{type(model).__module__}.{type(model).__qualname__}",
        _described(model.vllm_config, "vllm_config", ()),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _wheel() -> str:
    """Return a digest of the files that vLLM was installed as."""
    try:
        distribution = importlib.metadata.distribution("vllm")
    except importlib.metadata.PackageNotFoundError as exc:
        raise UnknownObjectError("vLLM is not installed as a package, so its files are not known") from exc
    record, origin = distribution.read_text("RECORD"), distribution.read_text("direct_url.json")
    if not record or (origin and json.loads(origin).get("dir_info", {}).get("editable")):
        raise UnknownObjectError("vLLM is installed without a list of its files, which may change")
    return hashlib.sha256(record.encode()).hexdigest()


def _device() -> str:
    torch: Any = sys.modules["torch"]
    return str(torch.cuda.current_device()) if torch.cuda.is_initialized() else "none"


def _described(value: Any, name: str, above: tuple[int, ...]) -> Any:  # noqa: ANN401
    """Describe a part of the configuration by what JSON holds, the same in every process."""
    if isinstance(value, enum.Enum):
        return [type(value).__qualname__, value.name]
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Path):
        return str(value)
    if id(value) in above:
        raise UnknownObjectError(f"{name} holds itself")
    above = (*above, id(value))
    if isinstance(value, dict):
        items = [
            [_described(key, name, above), _described(item, f"{name}[{key!r}]", above)] for key, item in value.items()
        ]
        return ["dict", sorted(items, key=json.dumps)]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [_described(item, f"{name}[]", above) for item in value]]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted((_described(item, f"{name}[]", above) for item in value), key=json.dumps)]
    fields = _fields(value, name)
    if fields is None:
        return digest_of(value)
    left_out = _OF_A_REPLICA.get(type(value).__name__, set())
    described = {key: _described(item, f"{name}.{key}", above) for key, item in fields.items() if key not in left_out}
    return [type(value).__qualname__, sorted(described.items())]


def _fields(value: Any, name: str) -> dict[str, Any] | None:  # noqa: ANN401
    """Return what an object of vLLM's configuration consists of; None where it is told by a digest of its own."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, type) or callable(value):
        if hasattr(value, "uuid"):  # a pass over graphs, which says so of itself (torch's CustomGraphPass)
            return {"uuid": value.uuid()}
        return None
    if hasattr(value, "to_dict"):  # a model's configuration, of transformers
        return {"": value.to_dict()}
    if type(value).__module__.partition(".")[0] == "vllm" and hasattr(value, "__dict__"):
        return dict(vars(value))
    if type(value).__module__.partition(".")[0] == "torch":
        return None
    raise UnknownObjectError(f"{name} is a {type(value).__qualname__}, which cannot be told apart from another one")
