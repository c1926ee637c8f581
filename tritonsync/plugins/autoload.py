"""Runs at the end of every `import torch`, unnoticed: `HOOKS` lists the modules that plugins patch, and with what.

vLLM calls it as well, in each of its processes (`vllm.general_plugins`): it may run any number of times.

It is the entry point in the group `torch.backends`, and imports nothing but the standard library and the settings. It
does nothing at all without TRITONSYNC_URL. With one it waits, by a finder on `sys.meta_path`, for the modules of torch
and Triton that plugins plug into, and connects to the bucket on a daemon thread. An exception here would make
`import torch` fail, whoever needed it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.abc
import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import PurePath
from types import ModuleType

from tritonsync.errors import SettingsError
from tritonsync.messages import name_speaker, set_level
from tritonsync.redaction import traceback_of
from tritonsync.session.process import no_fork
from tritonsync.settings import Settings

__all__ = ["HOOKS", "WATCH_HOOKS", "activate", "install", "is_helper", "uninstall"]

log = logging.getLogger(__name__)

#: Module -> functions (`module:name`) that are called with it once it is imported, and at once if it already is.
HOOKS: dict[str, tuple[str, ...]] = {
    "torch._inductor.codecache": ("tritonsync.plugins.inductor:patch_codecache",),
    "torch._functorch._aot_autograd.autograd_cache": ("tritonsync.plugins.inductor:patch_autograd_cache",),
    "torch._inductor.remote_cache": ("tritonsync.plugins.inductor:patch_remote_cache",),
    "torch._inductor.runtime.autotune_cache": ("tritonsync.plugins.inductor:patch_autotune_cache",),
    "torch._inductor.runtime.compile_tasks": ("tritonsync.plugins.inductor:patch_compile_tasks",),
    "torch._inductor.runtime.triton_heuristics": ("tritonsync.plugins.inductor:patch_heuristics",),
    "torch._dynamo.pgo": ("tritonsync.plugins.inductor:patch_pgo",),
    "torch._dynamo.eval_frame": ("tritonsync.plugins.precompile:patch_eval_frame",),
    "torch._dynamo.guards": ("tritonsync.plugins.precompile:patch_guards",),
    "torch._dynamo.output_graph": ("tritonsync.plugins.precompile:patch_output_graph",),
    "torch._dynamo.aot_compile": ("tritonsync.plugins.vllm:patch_aot_compile",),
    "torch._dynamo.package": ("tritonsync.plugins.precompile:patch_package",),
    "triton.runtime.cache": ("tritonsync.plugins.triton:install",),
    "vllm.compilation.caching": ("tritonsync.plugins.vllm:patch_caching",),
    "vllm.compilation.decorators": ("tritonsync.plugins.vllm:patch_decorators",),
}
#: The same for runs that are watched (`tritonsync run`).
WATCH_HOOKS: dict[str, tuple[str, ...]] = {
    "torch._inductor.codecache": ("tritonsync.watch.observer:watch_codecache",),
    "torch._inductor.compile_fx": ("tritonsync.watch.observer:watch_compile_fx",),
    "torch._inductor.runtime.triton_heuristics": ("tritonsync.watch.observer:watch_heuristics",),
    "triton.runtime.autotuner": ("tritonsync.watch.observer:watch_autotuner",),
    "triton.knobs": ("tritonsync.watch.observer:watch_knobs",),
}
#: Programs that torch starts as its helpers.
_HELPERS = (
    ("torch", "_inductor", "compile_worker", "__main__.py"),
    ("torch", "_inductor", "__autotune_main__.py"),
)
#: Plugins that can be taken out again.
_PLUGINS = (
    "tritonsync.plugins.precompile",
    "tritonsync.plugins.inductor",
    "tritonsync.plugins.triton",
    "tritonsync.plugins.vllm",
    "tritonsync.watch.observer",
)


def activate() -> None:
    """Do what the environment asks for; called by torch. Never raises."""
    try:
        settings = Settings.from_env()
    except SettingsError as exc:
        name_speaker()
        log.warning("stays off: %s", exc)
        return
    except Exception as exc:  # noqa: BLE001 - said; `import torch` goes on
        name_speaker()
        log.warning("stays off\n%s", traceback_of(exc))
        return
    if settings.url is not None and settings.force_disable_caches and not is_helper(sys.argv):
        name_speaker()
        log.warning("stays off: TORCHINDUCTOR_FORCE_DISABLE_CACHES turns torch's caches off")
    if settings.is_active or settings.report_dir is not None:
        try:
            _activate(settings)
        except Exception as exc:  # noqa: BLE001 - said; `import torch` goes on
            log.warning("stays off\n%s", traceback_of(exc))


def install(settings: Settings | None = None, *, precompile: bool | None = None) -> None:
    """Plug tritonsync into torch.compile in this process; what the entry point does by itself where a URL is set.

    Does nothing where the settings turn tritonsync off. Installing again changes the settings.

    Args:
        settings: None: taken from the environment.
        precompile: as in the settings; None: as they say.

    Raises:
        SettingsError: a variable cannot be understood.
    """
    settings = settings or Settings.from_env()
    if precompile is not None:
        settings = dataclasses.replace(settings, precompile=precompile)
    uninstall()
    if settings.is_active or settings.report_dir is not None:
        _activate(settings)


def uninstall() -> None:
    """Take tritonsync out of this process again, after a flush of what is to be uploaded."""
    for finder in [finder for finder in sys.meta_path if isinstance(finder, _Finder)]:
        sys.meta_path.remove(finder)
    for name in _PLUGINS:
        if name in sys.modules:
            sys.modules[name].remove()
    if "tritonsync.session.session" in sys.modules:
        sys.modules["tritonsync.session.session"].stop()
    name_speaker(named=False)


def _activate(settings: Settings) -> None:
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    name_speaker()
    set_level(settings.log)
    if settings.report_dir is not None:
        _watch(settings.report_dir)
    hooks: dict[str, list[Callable[[ModuleType], None]]] = {}
    wanted = [*(HOOKS.items() if settings.is_active else ()), *(WATCH_HOOKS.items() if settings.report_dir else ())]
    for name, targets in wanted:
        hooks.setdefault(name, []).extend(functools.partial(_call, target, settings) for target in targets)
    for name, functions in hooks.items():
        # A module whose import has begun is patched by hand once it is done; nobody else will come back here.
        module = sys.modules.get(name)
        if module is not None and not _is_being_imported(module):
            for function in functions:
                function(module)
    sys.meta_path.insert(0, _Finder(hooks))
    if settings.is_active and not is_helper(sys.argv):
        threading.Thread(target=_make_contact, args=(settings,), name="tritonsync-start", daemon=True).start()


def _call(target: str, settings: Settings, module: ModuleType) -> None:
    try:
        if settings.is_active:
            _start(settings)
        name, _, function = target.partition(":")
        getattr(importlib.import_module(name), function)(module)
    except Exception as exc:
        if settings.report_dir is not None:
            from tritonsync.watch.report import Reporter

            Reporter(settings.report_dir).say("blind", name=module.__name__)
        if settings.strict:
            raise
        log.warning("stays out of %s\n%s", module.__name__, traceback_of(exc))


def _watch(folder: str) -> None:
    from tritonsync.watch import observer
    from tritonsync.watch.report import Reporter

    reporter = Reporter(folder)
    observer.start(reporter, is_helper=is_helper(sys.argv))
    reporter.say("process", pid=os.getpid(), argv=sys.argv, helper=is_helper(sys.argv))


def _start(settings: Settings) -> None:
    from tritonsync.session import session  # it loads fsspec and more, which `import torch` must not wait for

    session.start(settings, is_helper=is_helper(sys.argv))


def _make_contact(settings: Settings) -> None:
    torch = sys.modules.get("torch")
    while torch is not None and _is_being_imported(torch):
        time.sleep(0.005)
    try:
        with no_fork():
            from tritonsync.session import session

            now = session.start(settings)
        if now is not None:
            now.begin()
    except Exception as exc:  # noqa: BLE001 - said; `import torch` goes on
        log.warning("no connection to the bucket\n%s", traceback_of(exc))


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def is_helper(argv: Sequence[str]) -> bool:
    """Whether these are the arguments of a program that torch starts to compile, or to time kernels, for another one.

    It starts both by their paths in its own folder: compile workers (torch/_inductor/compile_worker/subproc_pool.py)
    and the processes that autotune (torch/_inductor/autotune_process.py); the same in 2.11, 2.13 and 2.15.
    """
    parts = PurePath(argv[0]).parts if argv else ()
    return any(parts[-len(program) :] == program for program in _HELPERS)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the hooked modules as everybody else would, and calls the hooks once they have been executed."""

    def __init__(self, hooks: dict[str, list[Callable[[ModuleType], None]]]) -> None:
        self._hooks = hooks
        self._busy = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._hooks or getattr(self._busy, "name", None) == fullname:
            return None
        self._busy.name = fullname
        try:
            spec = self._ask_others(fullname, path, target)
        finally:
            self._busy.name = None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._hooks[fullname])
        return spec

    def _ask_others(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if not isinstance(finder, _Finder):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None


class _Loader(importlib.abc.Loader):
    """The module's own loader, which it gets back once it is executed."""

    def __init__(self, loader: importlib.abc.Loader, hooks: list[Callable[[ModuleType], None]]) -> None:
        self._loader = loader
        self._hooks = hooks

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for hook in self._hooks:
            hook(module)
