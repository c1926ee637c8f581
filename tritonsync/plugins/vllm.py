"""vLLM: carries the artifact that it makes of a whole model, where that is asked for (`TRITONSYNC_VLLM_ARTIFACT=1`).

vLLM keeps one file for each rank, `<VLLM_CACHE_ROOT>/torch_compile_cache/torch_aot_compile/<hash>/rank_<r>_<d>/model`,
and loads it without torch's caches, which spares Dynamo and the splitting of the graph (vllm/compilation, 0.33.0):

    decorators._try_load_aot_compiled_fn            looks for the file; ours is put there first if there is none
    torch's AOTCompiledFunction.save_compiled_function   writes it; what was looked for in vain is published
    caching.StandaloneCompiledArtifacts             holds the compiled pieces; without any, the model runs eagerly

Off by default: it was tried with a stand-in for vLLM only. What vLLM compiles piece by piece needs none of this.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tritonsync.local.files import check_owner, disk_errors, read_file, write_hidden
from tritonsync.messages import warn_once
from tritonsync.plugins.collectives import collectives_of
from tritonsync.plugins.digests import UnknownObjectError
from tritonsync.plugins.edge import Patches, UnknownProgramError, edge
from tritonsync.session import session

__all__ = ["patch_aot_compile", "patch_caching", "patch_decorators", "remove"]

log = logging.getLogger(__name__)

_patches = Patches()
#: Path of an artifact that was looked for in vain -> its key.
_missed: dict[str, str] = {}
#: How many compiled pieces the artifact holds that this thread is saving.
_saving = threading.local()


def _careful(patch: Callable[[Any], None]) -> Callable[[Any], None]:
    """Do nothing unless asked to; take everything back where vLLM is not as expected."""

    @functools.wraps(patch)
    def guarded(module: Any) -> None:  # noqa: ANN401
        now = session.current()
        if now is None or not now.settings.vllm_artifact:
            return
        try:
            patch(module)
        except (UnknownProgramError, AttributeError) as exc:
            _patches.undo()
            warn_once(log, "vllm", "leaves vLLM's artifact alone: this vLLM is not known, %s", exc)

    return guarded


def remove() -> None:
    """Take tritonsync out of vLLM."""
    _patches.undo()
    _missed.clear()


@_careful
def patch_decorators(decorators: Any) -> None:  # noqa: ANN401
    """Plug into `vllm.compilation.decorators`: bring an artifact before it is looked for."""

    def make(original: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
        def _try_load_aot_compiled_fn(model: Any, aot_compilation_path: str) -> Any:  # noqa: ANN401
            _bring(model, Path(aot_compilation_path))
            return original(model, aot_compilation_path)

        return _try_load_aot_compiled_fn

    _patches.replace(decorators, "_try_load_aot_compiled_fn", ("model", "aot_compilation_path"), make)


@_careful
def patch_caching(caching: Any) -> None:  # noqa: ANN401
    """Plug into `vllm.compilation.caching`: count the pieces of what is saved."""

    def make(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def __getstate__(artifacts: Any) -> Any:  # noqa: ANN401, N807
            _saving.pieces = getattr(_saving, "pieces", 0) + len(artifacts.submodule_bytes)
            return original(artifacts)

        return __getstate__

    _patches.replace(caching.StandaloneCompiledArtifacts, "__getstate__", ("self",), make)


@_careful
def patch_aot_compile(aot_compile: Any) -> None:  # noqa: ANN401
    """Plug into `torch._dynamo.aot_compile`: publish an artifact that was looked for in vain."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def save_compiled_function(self: Any, path: str, external_data: Any = None) -> Any:  # noqa: ANN401
            _saving.pieces = 0
            result = original(self, path, external_data)
            _saved(os.fspath(path), _saving.pieces)
            return result

        return save_compiled_function

    parameters = ("self", "path", "external_data")
    _patches.replace(aot_compile.AOTCompiledFunction, "save_compiled_function", parameters, make)


@edge(None)
def _bring(model: Any, path: Path) -> None:  # noqa: ANN401
    from tritonsync.plugins.vllm_key import key_of  # with much of torch, which no other program needs for this

    now = session.current()
    if now is None or path.exists() or collectives_of("dynamo", now.host.rank()) is not None:
        return
    try:
        key = key_of(model, path, now)
    except UnknownObjectError as exc:
        warn_once(log, "vllm key", "leaves vLLM's artifact alone: %s", exc)
        return
    _missed[str(path)] = key
    data = next(now.precompiled(key), None)
    if data is not None:
        check_owner(path.parent, "VLLM_CACHE_ROOT")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_hidden(path.parent, path, data, replace=False)
        now.note_precompiled(key, data)


@edge(None)
def _saved(path: str, pieces: int) -> None:
    # vLLM writes `model.<process id>.tmp`, and renames it.
    found = re.fullmatch(r"(.+)\.[0-9]+\.tmp", path)
    key = _missed.pop(found[1], None) if found is not None else None
    now = session.current()
    if now is None or key is None:
        return
    if not pieces:
        warn_once(log, "vllm empty", "vLLM's artifact is not published: it holds no compiled piece, and runs eagerly")
        return
    # What is published is signed: it has to be what vLLM wrote just now.
    check_owner(Path(path).parent, "VLLM_CACHE_ROOT")
    with disk_errors("read vLLM's artifact", path):
        data = read_file(path)
    now.enqueue_precompiled(key, lambda: data)
