"""A GPU that is not there: Inductor and Triton compile for it as for an H200, and nothing is launched.

Importing this after torch changes torch. All that makes, caches and reads graphs and kernels stays torch's and Triton's
own; what would ask the driver is answered here: what the GPU is and how large, how many registers a kernel takes
(`REGISTERS`), and how long (the one timed first is the fastest). Tensors on it are fake ones, shapes without memory.
"""
# mypy: ignore-errors

from __future__ import annotations

import itertools
import types

import torch
import torch._dynamo.device_interface
import torch._inductor.fx_passes.joint_graph
import torch._inductor.fx_passes.post_grad
import torch.cuda.graphs
from torch._inductor.runtime import benchmarking, triton_helpers, triton_heuristics
from torch._subclasses import fake_tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

__all__ = ["REGISTERS"]

#: Registers of each kernel; above 32, Inductor tries reductions with smaller blocks too.
REGISTERS = [16]

PROPERTIES = types.SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=150 << 30,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=60 << 20,
    gcnArchName="",
)


class Driver:
    """Triton's driver, as far as compiling asks for one."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_device_interface(self):
        return torch.cuda

    def is_active(self):
        return True


class Launcher:
    """A kernel that is loaded, and does nothing."""

    def __init__(self, result):
        self.config = result.config
        self.cache_hash = triton_heuristics.triton_hash_to_path_key(result.kernel.hash)
        self.n_regs, self.n_spills, self.shared, self.store_cubin = REGISTERS[0], 0, 0, False

    def __call__(self, *args, **kwargs):
        pass


def load(result):
    """Load a kernel as `StaticTritonCompileResult.make_launcher` does: its cubin must be there."""
    if not result.kernel.cubin_path:
        result.reload_cubin_path()
    result.kernel.n_regs, result.kernel.n_spills = REGISTERS[0], 0
    return Launcher(result)


def answer(owner, **answers):
    for name, value in answers.items():
        setattr(owner, name, value if isinstance(owner, types.ModuleType) else staticmethod(value))


def nothing(*_args, **_kwargs):
    return None


clock = itertools.count(1)
driver.set_active(Driver())
answer(
    torch.cuda,
    is_available=lambda: True,
    is_initialized=lambda: True,
    device_count=lambda: 1,
    current_device=lambda: 0,
    get_device_properties=lambda device=None: PROPERTIES,
    get_device_capability=lambda device=None: (9, 0),
    get_device_name=lambda device=None: PROPERTIES.name,
    get_rng_state=lambda *_: torch.zeros(16, dtype=torch.uint8),
    is_current_stream_capturing=lambda: False,
    _exchange_device=lambda _: 0,
    _maybe_exchange_device=lambda _: 0,
    _lazy_init=nothing,
    init=nothing,
    set_device=nothing,
    set_rng_state=nothing,
    synchronize=nothing,
)
answer(torch.cuda.graphs, is_current_stream_capturing=lambda: False)
answer(
    torch._C,
    _cuda_getDevice=lambda: 0,
    _cuda_setDevice=nothing,
    _cuda_exchangeDevice=lambda _: 0,
    _cuda_maybeExchangeDevice=lambda _: 0,
    _cuda_getCurrentRawStream=lambda _: 0,
    _accelerator_getDeviceIndex=lambda: 0,
)
answer(torch.accelerator, is_available=lambda: False)
answer(
    torch._C._dynamo.guards,
    _empty_strided_cuda=lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype, device="cuda"),
)
answer(
    torch._dynamo.device_interface.CudaInterface,
    is_available=lambda: True,
    device_count=lambda: 1,
    current_device=lambda: 0,
    get_compute_capability=lambda device=None: 90,
    get_device_properties=lambda device=None: PROPERTIES,
    exchange_device=lambda _: 0,
    maybe_exchange_device=lambda _: 0,
    set_device=nothing,
    get_raw_stream=lambda device: 0,
    current_stream=nothing,
    synchronize=nothing,
)
answer(
    torch._dynamo.device_interface.CudaInterface.Worker,
    current_device=lambda: 0,
    get_device_properties=lambda device=None: PROPERTIES,
    set_device=nothing,
)
answer(fake_tensor, init_gpu_context=nothing)
# Patterns are traced with tensors on the GPU.
answer(torch._inductor.fx_passes.joint_graph, lazy_init=nothing)
answer(torch._inductor.fx_passes.post_grad, lazy_init=nothing)
answer(triton_helpers, set_driver_to_gpu=nothing)
triton_heuristics.StaticTritonCompileResult.make_launcher = load
triton_heuristics.TritonCompileResult.make_launcher = lambda result: Launcher(result)  # a class does not bind
for benchmarker in (benchmarking.InductorBenchmarker, benchmarking.TritonBenchmarker):
    benchmarker.benchmark_gpu = lambda *_, **__: float(next(clock))
