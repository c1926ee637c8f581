"""Programs whose first call is measured: `python workloads.py <name> [--device cuda] [--tiny] [options]`.

Each prints one JSON object: seconds of the first call, how far its numbers are from eager mode, and what tritonsync
counted up to then. `--tiny` takes models of a few matrix products, which any machine compiles in a second. With
`--gated` it says `ready` before its first call and `called` after it, and waits for a line each time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing  # noqa: F401 - as in zygote.py: it is in torch's keys
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Call = Callable[[Any], Any]


def tiny_model(width: int = 32) -> Any:
    """Return a model of matrix products only: it needs no C++ compiler on a CPU."""
    return torch.nn.Sequential(torch.nn.Linear(width, width, bias=False), torch.nn.Linear(width, width, bias=False))


def compiled(model: Call, options: argparse.Namespace, **how: Any) -> Call:
    return model if options.eager else torch.compile(model, **how)


def resnet(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """A training step of ResNet-50, batch 32."""
    if options.tiny:
        model: Any = tiny_model().to(options.device)
        x = torch.randn(8, 32, device=options.device)
    else:
        import timm

        with torch.device(options.device):  # where weights are drawn quickly
            model = timm.create_model("resnet50", num_classes=1000).to(memory_format=torch.channels_last)
        x = torch.randn(32, 3, 224, 224, device=options.device).to(memory_format=torch.channels_last)
    model.train()
    forward = compiled(model, options)

    def step() -> torch.Tensor:
        model.zero_grad()
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=not options.tiny):
            y = forward(x)
        y.float().backward(torch.ones_like(y, dtype=torch.float32))
        gradients = [p.grad.float().norm() for p in model.parameters() if p.grad is not None]
        return torch.stack([y.float().norm(), torch.stack(gradients).norm()])

    return step, "train step"


def vit(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """Inference of ViT-B/16, batch 8."""
    if options.tiny:
        model: Any = tiny_model(48).to(options.device)
        x = torch.randn(8, 48, device=options.device)
    else:
        import timm

        with torch.device(options.device):
            model = timm.create_model("vit_base_patch16_224").to(dtype=torch.bfloat16)
        x = torch.randn(8, 3, 224, 224, device=options.device, dtype=torch.bfloat16)
    return inference(model, x, options), "inference"


def resnet_inference(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """Inference of ResNet-50, batch 32."""
    if options.tiny:
        model: Any = tiny_model(56).to(options.device)
        return inference(model, torch.randn(8, 56, device=options.device), options), "inference"
    import timm

    with torch.device(options.device):
        model = timm.create_model("resnet50", num_classes=1000)
    model = model.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    x = torch.randn(32, 3, 224, 224, device=options.device, dtype=torch.bfloat16)
    return inference(model, x.to(memory_format=torch.channels_last), options), "inference"


def llama_of_eight(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """Inference of a Llama of eight layers with random weights, 128 tokens."""
    options.layers = 8
    return llama(options)


def llama(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """Inference of a Llama of `options.layers` layers with random weights, 128 tokens."""
    if options.tiny:
        model: Any = tiny_model(40).to(options.device)
        return inference(model, torch.randn(8, 40, device=options.device), options), "inference"
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=options.layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        vocab_size=32000,
    )
    with torch.device(options.device):
        model = LlamaForCausalLM(config).to(dtype=torch.bfloat16)
    ids = torch.arange(128, device=options.device).reshape(1, 128) % 1000
    model.eval()
    forward = compiled(lambda ids: model(input_ids=ids, use_cache=False).logits, options)

    def call() -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = forward(ids)
            return logits.float()

    return call, "inference"


def dynamic(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """A function that asks for its number of rows, called with `--rows`: the answer is a guard."""
    width = 32 if options.tiny else 256
    weight = torch.randn(width, width, device=options.device) / width

    def function(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] <= 100:
            return body(x)
        return body(x)

    def body(x: torch.Tensor) -> torch.Tensor:
        y = torch.mm(x, weight)
        return y if options.tiny else torch.softmax(torch.relu(y), dim=1).sum(1)

    forward = compiled(function, options)

    def call() -> torch.Tensor:
        outputs = []
        for rows in options.rows:
            torch.compiler.reset()
            x = torch.linspace(0, 1, rows * width, device=options.device).reshape(rows, width)
            torch._dynamo.mark_dynamic(x, 0)
            outputs.append(forward(x).float().norm())
        return torch.stack(outputs)

    return call, f"rows {options.rows}"


def maxauto(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """Two matrix products with GELU under max-autotune-no-cudagraphs."""
    width = 32 if options.tiny else 1024
    dtype = torch.float32 if options.tiny else torch.bfloat16
    model: Any = tiny_model(width)
    if not options.tiny:
        model = torch.nn.Sequential(
            torch.nn.Linear(width, 4 * width), torch.nn.GELU(), torch.nn.Linear(4 * width, width), torch.nn.Softmax(-1)
        )
    model = model.to(options.device, dtype=dtype)
    x = torch.randn(512, width, device=options.device, dtype=dtype)
    return inference(model, x, options, mode=None if options.tiny else "max-autotune-no-cudagraphs"), "inference"


def inference(model: Any, x: torch.Tensor, options: argparse.Namespace, **how: Any) -> Callable[..., Any]:
    model.eval()
    forward = compiled(model, options, **how)

    def call() -> torch.Tensor:
        with torch.no_grad():
            y: torch.Tensor = forward(x)
            return y.float()

    return call


def shapes(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """A model that is compiled for one number of rows, then for any: two variants."""
    width = 32 if options.tiny else 1024
    model: Any = tiny_model(width)
    if not options.tiny:
        model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.LayerNorm(width))
    model = model.to(options.device).eval()
    forward = compiled(model, options)

    def call() -> torch.Tensor:
        with torch.no_grad():
            found = [
                forward(torch.linspace(-1, 1, rows * width, device=options.device).reshape(rows, width)).norm()
                for rows in (16, 24, 40)
            ]
        return torch.stack(found)

    return call, "rows 16, 24, 40"


def handwritten(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """A model that calls a Triton kernel written by hand between two layers."""
    width = 64 if options.tiny else 1024
    model: Any = tiny_model(width).to(options.device).eval()
    x = torch.randn(32, width, device=options.device)
    if options.device == "cpu":
        return inference(model, x, options), "inference"
    from tests.gpu.handwritten import Scaled

    return inference(torch.nn.Sequential(model, Scaled(3.0), torch.nn.GELU()), x, options), "inference"


def dynamic_small(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """The first variant of `dynamic`."""
    options.rows = [50]
    return dynamic(options)


def dynamic_large(options: argparse.Namespace) -> tuple[Callable[[], torch.Tensor], str]:
    """The second variant of `dynamic`."""
    options.rows = [200]
    return dynamic(options)


WORKLOADS: dict[str, Callable[[argparse.Namespace], tuple[Callable[[], torch.Tensor], str]]] = {
    "resnet": resnet,
    "vit": vit,
    "llama": llama,
    "dynamic": dynamic,
    "dynamic-small": dynamic_small,
    "dynamic-large": dynamic_large,
    "max-autotune": maxauto,
    "resnet-inference": resnet_inference,
    "llama-8": llama_of_eight,
    "shapes": shapes,
    "handwritten": handwritten,
}


def counters() -> dict[str, int]:
    from torch._dynamo.utils import counters as counted

    names = {"fx": ("inductor", "fxgraph_cache_"), "aot": ("aot_autograd", "autograd_cache_")}
    return {
        f"{short}_{what}": counted[group][f"{prefix}{what}"]
        for short, (group, prefix) in names.items()
        for what in ("hit", "miss", "bypass")
    }


def tritonsync_counts() -> dict[str, float]:
    if "tritonsync.session.session" not in sys.modules:
        return {}
    import dataclasses

    from tritonsync.session import session

    now = session.current()
    return {} if now is None else dataclasses.asdict(now.counts)


def loaded_ahead() -> int:
    """Return how many results of precompile are in place before the first call."""
    module = sys.modules.get("tritonsync.plugins.precompile_process")
    return 0 if module is None else sum(known.ahead is not None for known in module.functions.values())


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def wait(what: str) -> None:
    """Say something, and wait for a line."""
    print(what, flush=True)
    sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=WORKLOADS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rows", type=int, nargs="*", default=[50])
    parser.add_argument("--save-mega")
    parser.add_argument("--load-mega")
    parser.add_argument("--gated", action="store_true")
    parser.add_argument("--calls", type=int, default=1, help="calls after the first one")
    options = parser.parse_args()
    begun = time.perf_counter()
    torch.manual_seed(0)
    options.eager, options.layers = False, 4
    call, what = WORKLOADS[options.name](options)
    # The device's first kernel costs a context that nobody can cache.
    torch.ones(1, device=options.device).add_(1)
    synchronize(options.device)
    built = time.perf_counter()
    ahead = loaded_ahead()
    if options.gated:
        wait("ready")
    started = time.perf_counter()
    if options.load_mega:
        torch.compiler.load_cache_artifacts(Path(options.load_mega).read_bytes())
    loaded = time.perf_counter()
    first = call()
    synchronize(options.device)
    ended = time.perf_counter()
    counted = tritonsync_counts()
    if options.gated:
        wait("called")
    for _ in range(options.calls):
        call()
    if options.save_mega:
        artifacts = torch.compiler.save_cache_artifacts()
        assert artifacts is not None
        Path(options.save_mega).write_bytes(artifacts[0])
    synchronize(options.device)
    result = {
        "name": options.name,
        "what": what,
        "first_call_s": round(ended - loaded, 4),
        "load_s": round(loaded - started, 4),
        "setup_s": round(built - begun, 3),
        "turn_s": round(started - built, 3),
        "ahead": ahead,
        "sum": float(first.detach().double().sum()),
        "error": distance(first, options),
        **counters(),
        "tritonsync": counted,
        "pid": os.getpid(),
    }
    print(json.dumps(result), flush=True)


def distance(first: torch.Tensor, options: argparse.Namespace) -> float:
    """Return the relative distance of the first call's numbers from eager mode's."""
    torch.manual_seed(0)
    options.eager = True
    call, _ = WORKLOADS[options.name](options)
    expected = call()
    return round(float((first.detach() - expected.detach()).norm() / expected.detach().norm()), 6)


if __name__ == "__main__":
    main()
