"""What Dynamo's result for a function depends on apart from its guards, and the key made of it.

Inside one process Dynamo takes versions, configuration and the kind of machine for given. Elsewhere each of them is
part of the key: another one is a miss. Upstream's key is the function's name and first line alone
(torch/_dynamo/package.py `source_id_from_fn`, 2.11 and 2.13).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import platform
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

from tritonsync.plugins.digests import UnknownObjectError, digest_of
from tritonsync.session.session import Session

__all__ = ["beginning_of_key", "environment", "in_program_state", "key_of", "program_state"]

#: Changes when entries of an earlier release must not be read any more.
_FORMAT = 3
#: Configuration that says nothing of a result: folders, debugging, and the mode itself.
_NOT_CONFIG = frozenset({"base_dir", "debug_dir_root", "caching_precompile", "_save_config_ignore"})
#: Kinds of devices whose autocast a result depends on, in the order of `program_state`.
_AUTOCAST = ("cpu", "cuda")
#: What float32 precision is chosen for. The older switches, such as `allow_tf32`, set the same; to read them fails once
#: a program has used the newer ones (torch/backends/__init__.py, since 2.9).
_PRECISIONS = (
    ("generic", "all"),
    *((backend, of) for backend in ("cuda", "mkldnn") for of in ("all", "matmul", "conv", "rnn")),
)
#: Of Inductor's: code of the user's that no guard and no key knows.
_CUSTOM = (
    "joint_custom_pre_pass",
    "joint_custom_post_pass",
    "pre_grad_custom_pass",
    "post_grad_custom_pre_pass",
    "post_grad_custom_post_pass",
    "_pre_fusion_custom_pass",
)


def environment(now: Session) -> list[str]:
    """Return what the builds, the machine and this process's place in a job are."""
    import torch

    triton = sys.modules.get("triton")
    gpu = ""
    if torch.cuda.is_initialized():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = f"{properties.name} {properties.major}.{properties.minor} {properties.multi_processor_count}"
    rank = "alone"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank = f"{torch.distributed.get_rank()} of {torch.distributed.get_world_size()}"
    return [
        f"torch {torch.__version__} {torch.version.git_version} {torch.version.cuda} {torch.version.hip}",
        f"triton {getattr(triton, '__version__', None)}",
        f"python {platform.python_implementation()} {platform.python_version()}",
        f"cpu {now.host.cpu()}",
        f"gpu {gpu}",
        f"rank {rank}",
    ]


def program_state() -> tuple[Any, ...]:
    """Return the switches of torch that a result depends on, as they are now; compared before each use of a result.

    Most of them are guarded by Dynamo as well; the guards on saved tensors hooks and on the default device are made
    anew from what is set where they are loaded (torch/_dynamo/guards.py, 2.13).
    """
    import torch

    c = torch._C  # noqa: SLF001 - torch's own Python functions wrap these, and this runs at each call
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        *(torch.is_autocast_enabled(kind) and str(torch.get_autocast_dtype(kind)) for kind in _AUTOCAST),
        torch.is_autocast_cache_enabled(),
        str(torch.get_default_dtype()),
        str(torch.utils._device.CURRENT_DEVICE),  # noqa: SLF001
        torch.get_num_threads(),
        c._get_deterministic_algorithms(),  # noqa: SLF001
        c._get_deterministic_algorithms_warn_only(),  # noqa: SLF001
        *(c._get_fp32_precision_getter(*of) for of in _PRECISIONS),  # noqa: SLF001
        str(c._get_cublas_allow_fp16_reduced_precision_reduction()),  # noqa: SLF001
        str(c._get_cublas_allow_bf16_reduced_precision_reduction()),  # noqa: SLF001
        c._get_flash_sdp_enabled(),  # noqa: SLF001
        c._get_mem_efficient_sdp_enabled(),  # noqa: SLF001
        c._get_math_sdp_enabled(),  # noqa: SLF001
        c._get_cudnn_sdp_enabled(),  # noqa: SLF001
        c._autograd._top_saved_tensors_default_hooks(True) is None,  # noqa: SLF001
        c._len_torch_function_stack(),  # noqa: SLF001
        c._len_torch_dispatch_stack(),  # noqa: SLF001
    )


@contextlib.contextmanager
def in_program_state(state: Sequence[Any]) -> Iterator[None]:
    """Switch on what guards take from the thread that makes them, as it was in a `program_state`.

    A tensor's dispatch keys are compared together with those of the thread (torch/csrc/dynamo/guards.cpp `TensorCheck`,
    2.11 and 2.13): a result that is loaded outside the program's autocast would serve no call inside it.
    """
    import torch

    _, is_inference, *autocast = state
    before = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _AUTOCAST]
    with torch.inference_mode(is_inference):
        try:
            for kind, dtype in zip(_AUTOCAST, autocast, strict=False):
                torch.set_autocast_enabled(kind, bool(dtype))
                if dtype:
                    torch.set_autocast_dtype(kind, getattr(torch, dtype.removeprefix("torch.")))
            yield
        finally:
            for kind, is_enabled, dtype in before:
                torch.set_autocast_enabled(kind, is_enabled)
                torch.set_autocast_dtype(kind, dtype)


def beginning_of_key(function: types.FunctionType, backend: Any, context: Any, now: Session) -> str:  # noqa: ANN401
    """Return the first half of the key of a compiled function: what is known when `torch.compile` is called.

    Args:
        function: the innermost one, as Dynamo sees it.
        backend: what `torch.compile` was given, made an object by torch.
        context: Dynamo's, made by `torch.compile`.
        now: the session.

    Returns:
        32 hex digits.

    Raises:
        UnknownObjectError: the key would not tell it apart from another one.
    """
    return _half(
        [
            _FORMAT,
            environment(now),
            configuration(),
            _chosen(backend, context),
            [function.__module__, function.__qualname__, function.__code__.co_firstlineno],
            digest_of(function),
        ]
    )


def key_of(function: types.FunctionType, owner: object, backend: Any, context: Any, now: Session) -> str:  # noqa: ANN401
    """Return the key of a compiled function, 64 hex digits: what it is, and the state in which it is first called.

    Args:
        function: the innermost one, as Dynamo sees it.
        owner: what it is bound to; None for nothing.
        backend: what `torch.compile` was given, made an object by torch.
        context: Dynamo's, made by `torch.compile`.
        now: the session.

    Raises:
        UnknownObjectError: the key would not tell it apart from another one.
    """
    state = [repr(program_state()), _device_index(), _structure(owner)]
    return beginning_of_key(function, backend, context, now) + _half(state)


def _device_index() -> int:
    """Return the number of the GPU that tensors are made on which name none, 0 before CUDA is used.

    Code without inputs on a GPU has it burnt in, and no guard; Inductor's key of such a graph holds it too
    (torch/_inductor/codecache.py `FxGraphHashDetails`, 2.11 and 2.13).
    """
    import torch

    return int(torch.cuda.current_device()) if torch.cuda.is_initialized() else 0


def _half(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _chosen(backend: Any, context: Any) -> list[str]:  # noqa: ANN401
    """Return what the user has chosen for this function."""
    if type(backend).__module__ != "torch" or type(backend).__name__ != "_TorchCompileInductorWrapper":
        name = getattr(backend, "__name__", type(backend).__name__)
        raise UnknownObjectError(f"its backend is {name}, and not Inductor")
    if getattr(context, "_shapes_spec", None) is not None or getattr(context, "_isolate_recompiles_id", -1) != -1:
        raise UnknownObjectError("it has a shapes_spec, or recompiles in isolation")
    config = sys.modules["torch._inductor.config"]
    for name in ("triton.cudagraphs", "freezing", "cpp_wrapper", *_CUSTOM):
        if backend.config.get(name) or _attribute(config, name):
            # Loaded without the CUDA graphs they were made for; with weights burnt in; with code nobody knows.
            raise UnknownObjectError(f"it is compiled with {name}, which an entry does not carry")
    options = [f"{name}={_stable(value)}" for name, value in sorted(backend.config.items())]
    return [f"fullgraph={context.fullgraph}", f"dynamic={context._dynamic} {backend.dynamic}", *options]  # noqa: SLF001


def _attribute(config: Any, name: str) -> Any:  # noqa: ANN401
    return functools.reduce(lambda value, part: getattr(value, part, None), name.split("."), config)


def configuration() -> str:
    """Return a digest of torch's configuration.

    Raises:
        UnknownObjectError: something in there is not told apart.
    """
    described = []
    for name in ("torch._dynamo.config", "torch._inductor.config", "torch._functorch.config"):
        config: Any = sys.modules[name]
        values = config.save_config_portable(ignore_private_configs=False)
        described += [f"{name}.{key}={_stable(values[key])}" for key in sorted(values) if key not in _NOT_CONFIG]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()


def _stable(value: Any) -> str:  # noqa: ANN401
    """Return a text that is the same in every process."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(_stable, value))})"
    if isinstance(value, (set, frozenset)):
        return f"set({', '.join(sorted(map(_stable, value)))})"
    if isinstance(value, dict):
        return f"dict({', '.join(sorted(f'{_stable(key)}: {_stable(item)}' for key, item in value.items()))})"
    return digest_of(value)


def _structure(owner: Any) -> list[Any]:  # noqa: ANN401
    """Describe what a method is bound to: of a module its submodules, parameters and plain attributes."""
    import torch

    if owner is None:
        return []
    if not isinstance(owner, torch.nn.Module):
        return [digest_of(type(owner))]
    classes: dict[type, str] = {}
    described: list[Any] = []
    for name, module in owner.named_modules():
        kind = type(module)
        if kind not in classes:
            classes[kind] = digest_of(kind)
        plain = [
            f"{key}={value!r}"
            for key, value in sorted(vars(module).items())
            if isinstance(value, (bool, int, str, float))
        ]
        tensors = [*module._parameters.items(), *module._buffers.items()]  # noqa: SLF001
        shapes = [
            f"{key} {tuple(value.shape)} {value.dtype} {value.device.type} {value.requires_grad}"
            for key, value in tensors
            if value is not None
        ]
        described.append([name, classes[kind], plain, shapes])
    return described
