# mypy: ignore-errors
"""What serving programs call torch for: `python serving.py <vllm|saved|sglang> <folder>`; prints as programs.py does.

Each stands for one of them, with the same calls in the same order and none of the rest; what they call was read in
their wheels (vllm 0.33.0: `vllm/compilation/` decorators, backends, piecewise_backend, compiler_interface and caching;
sglang 0.5.23: `sglang/srt/compilation/` backend and compiler_interface):

    vllm      the cache folder is chosen inside the first call; the graph is split at attention; each piece goes
              through `standalone_compile(aot=True)`, for any number of tokens, and for one number; what comes out is
              one artifact, saved by `save_compiled_function` and loaded where it is there (vLLM's default since 2.12)
    saved     the pieces go through `standalone_compile` without `aot`, and are saved one file each (as with
              VLLM_USE_MEGA_AOT_ARTIFACT=0 and VLLM_USE_AOT_COMPILE=0)
    sglang    the folder is chosen when Dynamo calls the backend; the pieces go through `compile_fx` with the
              AOTAutograd cache and both remote caches off, so that only the FX graph cache is left

RANK and WORLD_SIZE, with RENDEZVOUS, a file, make them one rank of a job. Only matrix products, as in programs.py.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.metadata
import os
import pickle
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from tests.plugins.programs import counters, finish

#: What stands for the package vLLM; a test may install it elsewhere.
sys.path.insert(0, os.environ.get("VLLM_SITE", str(Path(__file__).with_name("standin"))))
from vllm.compilation import caching, decorators  # isort: skip
from vllm.config import VllmConfig  # isort: skip

import torch._inductor.config as inductor_config  # isort: skip
import torch._functorch.config as functorch_config  # isort: skip
from torch._dynamo.aot_compile_types import SerializableCallable  # isort: skip
from torch._inductor.standalone_compile import AOTCompiledArtifact  # isort: skip
from torch._subclasses.fake_tensor import FakeTensorMode  # isort: skip
from torch.fx._graph_pickler import GraphPickler, Options  # isort: skip
from torch.fx.experimental.symbolic_shapes import ShapeEnv  # isort: skip
from torch.fx.passes.split_module import split_module  # isort: skip

LAYERS = 2
WIDTH = 8
#: The number of tokens for which graphs are compiled of their own.
ONE = 4


@torch.library.custom_op("tritonsync_serving::attention", mutates_args=())
def attention(x: torch.Tensor) -> torch.Tensor:
    """Stand for attention: neither program compiles it, and both split their graphs there."""
    return x.flip(0).contiguous()


@attention.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Model(torch.nn.Module):
    """Layers that differ in their weights only, with attention in between."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = torch.nn.ParameterList(), torch.nn.ParameterList()
        for layer in range(LAYERS):
            base = torch.arange(float(WIDTH * WIDTH)).reshape(WIDTH, WIDTH) / 90
            self.before.append(torch.nn.Parameter(base + layer, requires_grad=False))
            self.after.append(torch.nn.Parameter(base.flip(0) - layer, requires_grad=False))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = tokens
        for before, after in zip(self.before, self.after, strict=True):
            x = torch.mm(x, before)
            x = torch.ops.tritonsync_serving.attention(x)
            x = torch.mm(x, after)
        return x


def split(graph: torch.fx.GraphModule) -> tuple[torch.fx.GraphModule, list[str]]:
    """Split a graph at attention; return it, and the names of the pieces that are to be compiled."""
    parts: dict[torch.fx.Node, int] = {}
    apart: set[int] = set()
    part = 0
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if node.op == "call_function" and "attention" in str(node.target):
            parts[node] = part + 1
            apart.add(part + 1)
            part += 2
        else:
            parts[node] = part
    pieces = split_module(graph, None, lambda node: parts[node], keep_original_order=True)
    names = sorted((name for name, _ in pieces.named_children()), key=lambda name: int(name.removeprefix("submod_")))
    return pieces, [name for name in names if int(name.removeprefix("submod_")) not in apart]


class Pieces(torch.fx.Interpreter):
    """Runs a split graph on fake tensors, and puts what `compile_piece` makes of each piece in its place."""

    def __init__(self, graph, names, compile_piece) -> None:
        super().__init__(graph)
        self._names, self._compile_piece = names, compile_piece

    def call_module(self, target, args, kwargs):
        result = super().call_module(target, args, kwargs)
        if target in self._names:
            piece = self._compile_piece(target, self.fetch_attr(target), args)
            # What a piece returns is one tensor, or a tuple of them; compiled it is always a tuple.
            returns_tuple = isinstance(result, tuple)
            self.module.__dict__[target] = functools.partial(unpacked, piece, returns_tuple)
        return result


def unpacked(pieces, returns_tuple, *args):
    """Call what a piece was compiled to: for any number of tokens, or for one."""
    rows = next(x.shape[0] for x in args if isinstance(x, torch.Tensor) and not isinstance(x, torch.nn.Parameter))
    out = pieces[rows == ONE and len(pieces) > 1](*args)
    return out if returns_tuple or not isinstance(out, (tuple, list)) else out[0]


def fake_arguments(piece: torch.fx.GraphModule) -> list:
    return [node.meta["example_value"] for node in piece.graph.find_nodes(op="placeholder")]


def cache_folder(base: Path) -> None:
    """Choose the cache folders of torch and Triton, as both programs do: long after torch was imported."""
    for variable, name in (("TORCHINDUCTOR_CACHE_DIR", "inductor_cache"), ("TRITON_CACHE_DIR", "triton_cache")):
        (base / name).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(base / name)


# ---- vLLM -----------------------------------------------------------------------------------------------------------


class WholeModel(SerializableCallable):
    """What the backend returns: the split graph with its compiled pieces, which can be saved and loaded."""

    def __init__(self, graph: bytes, artifacts: caching.StandaloneCompiledArtifacts, call) -> None:
        self.graph, self.artifacts, self.call = graph, artifacts, call

    def __call__(self, *args):
        return self.call(*args)

    @classmethod
    def serialize_compile_artifacts(cls, fn) -> bytes:
        return pickle.dumps((fn.graph, fn.artifacts))

    @classmethod
    def deserialize_compile_artifacts(cls, data: bytes):
        graph, artifacts = pickle.loads(data)
        pieces = GraphPickler.loads(graph, FakeTensorMode(shape_env=ShapeEnv()))
        for name, saved_piece in artifacts.submodule_bytes.items():
            returns_tuple, shapes = pickle.loads(saved_piece)
            piece = tuple(AOTCompiledArtifact.deserialize(each) for each in shapes)
            pieces.__dict__[name] = functools.partial(unpacked, piece, returns_tuple)
        pieces.recompile()
        return cls(graph, artifacts, pieces)


def is_dynamic(x) -> bool:
    return isinstance(x, torch.Tensor) and any(isinstance(size, torch.SymInt) for size in x.shape)


def standalone(piece, arguments, dynamic_shapes: str, *, aot: bool):
    # A piece is compiled for several shapes, and torch may take the graph it is given apart.
    return torch._inductor.standalone_compile(
        copy.deepcopy(piece),
        arguments,
        dynamic_shapes=dynamic_shapes,
        options={"config_patches": {"enable_auto_functionalized_v2": False}},
        **({"aot": True} if aot else {}),
        **({"donate_graph_module": True} if torch.__version__ >= (2, 13) else {}),
    )


def vllm_backend(base: Path, *, aot: bool, eager: bool = False):
    """Return the backend that Dynamo is given; `base` is the folder of this rank. `eager`: it compiles no piece."""

    def compile_piece(name, piece, _args):
        general = standalone(piece, fake_arguments(piece), "from_graph", aot=aot)
        mode = FakeTensorMode(shape_env=ShapeEnv())
        with mode:
            one = [
                torch.empty(ONE, WIDTH)
                if is_dynamic(x)
                else ONE
                if isinstance(x, torch.SymInt)
                else torch.empty(x.shape)
                for x in fake_arguments(piece)
            ]
        # Its own mode is to be used, which torch has no parameter for before 2.13.
        with mock.patch.object(sys.modules["torch._inductor.standalone_compile"], "FakeTensorMode", return_value=mode):
            special = standalone(piece, one, "from_example_inputs", aot=aot)
        if not aot:
            for shape, compiled in ((None, general), (ONE, special)):
                compiled.save(path=str(base / f"artifact_shape_{shape}_{name}"), format="binary")
        return general, special

    def backend(graph, _example_inputs):
        if not aot:
            cache_folder(base)
        pieces, names = split(graph)
        names = [] if eager else names
        original = copy.deepcopy(pieces)
        fakes = fake_arguments(graph)
        with functorch_config.patch({} if aot else {"bundled_autograd_cache": False}):
            Pieces(pieces, names, compile_piece).run(*fakes)
        if not aot:
            return pieces
        for node in (node for module in original.modules() if hasattr(module, "graph") for node in module.graph.nodes):
            node.meta.pop("source_fn_stack", None)
            node.meta.pop("nn_module_stack", None)
        with functorch_config.patch("bundled_autograd_cache", True):
            artifacts = caching.StandaloneCompiledArtifacts()
            for name in names:
                piece, returns_tuple = pieces.__dict__[name].args
                artifacts.submodule_bytes[name] = pickle.dumps((returns_tuple, [each.serialize() for each in piece]))
        return WholeModel(GraphPickler.dumps(original, Options(ops_filter=None)), artifacts, pieces)

    return backend


def vllm(folder: Path, model: Model, tokens: torch.Tensor, *, eager: bool = False) -> torch.Tensor:
    """Call a model for the first time."""
    model.vllm_config.parallel_config.rank = rank()
    for plugin in importlib.metadata.entry_points(group="vllm.general_plugins"):
        plugin.load()()
    base = folder / "torch_compile_cache" / "torch_aot_compile" / "0123456789abcdef"
    cache_folder(base)
    artifact = base / f"rank_{rank()}_0" / "model"
    loaded = decorators._try_load_aot_compiled_fn(model, str(artifact))
    if loaded is not None:
        return loaded(model, tokens)
    torch._dynamo.mark_dynamic(tokens, 0)
    with torch._dynamo.config.patch(enable_aot_compile=True):
        compiled = torch.compile(
            model.forward,
            fullgraph=True,
            dynamic=False,
            backend=vllm_backend(artifact.parent, aot=True, eager=eager),
            options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe},
        )
    made = compiled.aot_compile(((tokens,), {}))
    artifact.parent.mkdir(parents=True, exist_ok=True)
    made.save_compiled_function(f"{artifact}.{os.getpid()}.tmp")
    Path(f"{artifact}.{os.getpid()}.tmp").replace(artifact)
    return made(model, tokens)


def vllm_eager(folder: Path, model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """Make an artifact without any compiled piece, as vLLM did (vllm 56879)."""
    return vllm(folder, model, tokens, eager=True)


def saved(folder: Path, model: Model, tokens: torch.Tensor) -> torch.Tensor:
    torch._dynamo.mark_dynamic(tokens, 0)
    base = folder / "torch_compile_cache" / "0123456789" / f"rank_{rank()}_0"
    options = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    backend = vllm_backend(base, aot=False)
    return torch.compile(model.forward, fullgraph=True, dynamic=False, backend=backend, options=options)(tokens)


# ---- SGLang ---------------------------------------------------------------------------------------------------------


class AnyShape:
    """Stands for a shape environment in which every guard holds, as both programs have one."""

    def __init__(self) -> None:
        self.guards, self.var_to_hint_override = [], {}

    def evaluate_guards_expression(self, *_args, **_kwargs) -> bool:
        return True

    def get_pruned_guards(self, *_args, **_kwargs) -> list:
        return []

    def produce_guards_expression(self, *_args, **_kwargs) -> str:
        return ""


def sglang(folder: Path, model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """Call a model for the first time."""
    from torch._inductor.compile_fx import compile_fx

    def compile_piece(_name, piece, args):
        fx, aot = "torch._inductor.codecache.FxGraphCache", "torch._functorch._aot_autograd.autograd_cache"
        options = {"enable_auto_functionalized_v2": False, "fx_graph_cache": True, "fx_graph_remote_cache": False}
        with contextlib.ExitStack() as stack:
            for name in (f"{fx}._get_shape_env", f"{aot}.AOTAutogradCache._get_shape_env"):
                stack.enter_context(mock.patch(name, AnyShape))
            stack.enter_context(mock.patch(f"{fx}._check_can_cache", return_value=None))
            stack.enter_context(torch._dynamo.utils.get_metrics_context())
            stack.enter_context(inductor_config.patch(fx_graph_remote_cache=False))
            stack.enter_context(functorch_config.patch(enable_autograd_cache=False, enable_remote_autograd_cache=False))
            return (compile_fx(copy.deepcopy(piece), list(args), config_patches=options),)

    def backend(graph, example_inputs):
        # All ranks share this folder.
        cache_folder(folder / "torch_compile_cache" / "0123456789" / "rank_0_0" / "backbone")
        pieces, names = split(graph)
        fake_mode = torch._guards.detect_fake_mode()
        fakes = [fake_mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in example_inputs]
        with fake_mode, torch._dispatch.python.enable_python_dispatcher():
            Pieces(pieces, names, compile_piece).run(*fakes)
        return pieces

    torch._dynamo.mark_dynamic(tokens, 0)
    return torch.compile(model.forward, fullgraph=True, backend=backend)(tokens)


# ---- both -----------------------------------------------------------------------------------------------------------


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def main(name: str, folder: str, speculative_tokens: str = "0") -> None:
    if "RENDEZVOUS" in os.environ:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{os.environ['RENDEZVOUS']}",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
    model = Model()
    model.vllm_config = VllmConfig(instance_id=str(os.getpid()))
    model.vllm_config.speculative_config.num_speculative_tokens = int(speculative_tokens)
    tokens = torch.arange(float(4 * WIDTH)).reshape(4, WIDTH) + rank()
    expected = model(tokens)
    before = counters()
    assert not any(before.values())
    computed = globals()[name](Path(folder), model, tokens)
    assert torch.equal(computed, expected)
    traced = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    finish(float(computed.sum()), traced=traced, rank=rank())
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
