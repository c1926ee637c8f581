"""What Triton's cache manager asks the session for: which kernels the bucket is asked for, and which are published.

Not those that Inductor compiles for a graph. They travel in the graph's own bundle, which was asked for before and was
not there, so each question would cost the compile a round trip and find nothing. Where that happens can be seen:

- in Inductor's compile workers and autotuning children, which make kernels for their parent and nothing else;
- in the process that compiles the graph, while torch's TritonBundler takes notes (torch/_inductor/compile_fx.py, 2.11
  to 2.15: from an FX miss to the end of code generation). It does not where a graph has no key, so the kernels of such
  a graph are on their own, unless a compile worker makes them, which cannot know.

Everything else is kept here: kernels launched by hand, those that coordinate descent tries at a graph's first call, and
always helper modules and timings, which no bundle of a graph holds.
"""

from __future__ import annotations

import base64
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from tritonsync.format.bundle import DEFAULT_VARIANT, Bundle
from tritonsync.format.kernel import Kernel, KernelFile, relocate_out
from tritonsync.format.manifest import Environment
from tritonsync.local import inductor_cache, triton_cache
from tritonsync.local.cpu import host_cpu
from tritonsync.local.files import disk_errors, read_file
from tritonsync.local.group import UNGROUPED_SUFFIXES
from tritonsync.local.presence import is_damaged, is_group_usable
from tritonsync.plugins.edge import edge
from tritonsync.session import session
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.environment import host_environment

__all__ = ["fetch", "install", "is_single", "is_usable", "is_whole", "made", "used"]

_TIMINGS = ".autotune.json"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


@edge(None)
def install(*, cache_dir: Callable[[], Path], triton: str) -> None:
    """Tell the session that Triton is here.

    Args:
        cache_dir: Triton's cache folder, which programs change, and so does Inductor.
        triton: its version.
    """
    now = session.current()
    if now is None:
        return
    settings = now.settings
    inductor = inductor_cache.default_inductor_dir(settings.inductor_dir)

    def folder_of(device: int | None) -> Path:
        if device is None or settings.triton_dir:
            return cache_dir()
        return inductor_cache.triton_dir(inductor, device)

    caches = LocalCaches(inductor, folder_of, folder_of)
    host = session.Host(lambda: caches, lambda: host_cpu(settings.cpu_capability), lambda: _environment(triton))
    session.set_host(host, unless_set=True)
    now.kernel_cache_is_known()


def is_single(filename: str) -> bool:
    """Whether Triton puts a file of this name into its cache for itself: a helper module, or an autotuner's timings."""
    return filename.endswith(UNGROUPED_SUFFIXES)


@edge(False)
def is_usable(folder: str, filename: str, group: dict[str, str]) -> bool:
    """Whether Triton can make a kernel of the group that it has found."""
    return is_group_usable(Path(folder), filename, group)


@edge(False)
def is_whole(path: str) -> bool:
    """Whether a single file is as it was written, as far as that can be told."""
    with disk_errors("read", path):
        return not is_damaged(path)


@edge(False)
def fetch(key: str, filename: str, folder: str) -> bool:
    """Bring a kernel into its folder; return whether it is there now."""
    now, variant = session.current(), _variant_of(filename)
    if now is None or variant is None or _is_of_a_graph(filename):
        return False
    return now.fetch_kernel(key, variant, Path(folder).parent)


@edge(None)
def used(key: str, filename: str, folder: str) -> None:
    """Note that Triton found something in its cache."""
    now = session.current()
    if now is not None and not _is_of_a_graph(filename):
        now.note_kernel_used(key, Path(folder))


@edge(None)
def made(key: str, filename: str, folder: str, seconds: float) -> None:
    """Publish what Triton has written."""
    now, variant = session.current(), _variant_of(filename)
    if not is_single(filename):
        _tell_observer(key, filename, folder)
    if now is None or variant is None or _is_of_a_graph(filename):
        return

    def make() -> Bundle | None:
        kernel = _read(key, filename, Path(folder))
        if kernel is None:
            return None
        return Bundle(kind="triton", key=key, variant=variant, kernels=(kernel,), compile_seconds=seconds)

    now.enqueue_kernel(key, variant, Path(folder), make, is_compiled=not is_single(filename))


def _read(key: str, filename: str, folder: Path) -> Kernel | None:
    """Read what is published under one variant: a whole kernel, or the one file of a folder that others share."""
    if not is_single(filename):
        return triton_cache.collect(folder, None)
    path = os.fspath(folder / filename)
    with disk_errors("read", path):
        try:
            if is_damaged(path):
                return None
            data = read_file(path)
        except FileNotFoundError:
            return None
    return Kernel(
        hash=key, device=None, files=(KernelFile(filename, relocate_out(filename, data, (os.fspath(folder),))),)
    )


def _variant_of(filename: str) -> str | None:
    """Return the variant that a file belongs to; None where it cannot be told, and the file stays on this host.

    Machine code of a helper module is for one Python and one kind of machine, and timings are those of one GPU model.
    """
    if filename.endswith(_TIMINGS):
        name = _gpu()
        return None if name is None else _as_name(name)
    if is_single(filename):
        return _as_name(f"{sysconfig.get_config_var('EXT_SUFFIX')}-{platform.machine()}")
    return DEFAULT_VARIANT


def _as_name(text: str) -> str:
    return _NOT_IN_NAMES.sub("-", text).strip(".-")[:255] or DEFAULT_VARIANT


def _is_of_a_graph(filename: str) -> bool:
    """Whether this is Inductor's business; see above."""
    now = session.current()
    if now is not None and now.is_helper:
        return True
    worker = sys.modules.get("torch._inductor.compile_worker.utils")
    if worker is not None and not worker.in_toplevel_process():
        return True
    bundler = sys.modules.get("torch._inductor.triton_bundler")
    return not is_single(filename) and bundler is not None and bundler.TritonBundler._entries is not None  # noqa: SLF001


def _gpu() -> str | None:
    """Return the name of the GPU that kernels are launched on; None where there is none, or torch knows none yet."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return str(torch.cuda.get_device_name(torch.cuda.current_device()))


def _environment(triton: str) -> Environment:
    torch = sys.modules.get("torch")
    return host_environment(torch=None if torch is None else str(torch.__version__), triton=triton, device=_gpu())


def _tell_observer(key: str, filename: str, folder: str) -> None:
    """Report a compilation: Triton has looked for a listener before it imported us, so the first one has none."""
    observer = sys.modules.get("tritonsync.watch.observer")
    if observer is not None:
        name = filename.removesuffix(".json")
        observer.kernel_compiled(name, base64.b32decode(key + "=" * (-len(key) % 8)).hex(), folder)
