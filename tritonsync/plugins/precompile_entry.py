"""One result of Dynamo as bytes: made of a `CompilePackage`, tried, and put in place in another process.

It is torch's own `PrecompileCacheEntry` (torch/_dynamo/package.py, 2.11 and 2.13), pickled, with one attribute more,
`tritonsync`: what the result was made of, and torch does not compare.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

from tritonsync.plugins.digests import UnknownObjectError, digest_of, digest_of_code, digest_of_source, is_versioned
from tritonsync.plugins.precompile_process import Function, reason_of
from tritonsync.watch import observer

__all__ = ["bytes_of", "initialize", "is_same", "put_in_place", "start_anew", "trouble_with"]

log = logging.getLogger(__name__)

#: (module, name) of what this process has put into globals: no two results share a name.
_brought: set[tuple[str, str]] = set()


def bytes_of(package: Any, known: Function) -> bytes | None:  # noqa: ANN401
    """Return what there is of a function now; None where it is not complete, or is left out.

    The caller holds torch's compile lock.
    """
    from torch._dynamo.package import PrecompileCacheEntry
    from torch._dynamo.precompile_context import PrecompileContext

    if known.reason is not None:
        return None
    entry = package.cache_entry()
    main, *others = entry.codes
    codes = [_as_carried(main), *(_as_carried(code) for code in others if code.guarded_codes or code.install_to_global)]
    carried = [code for code in codes if not code.bypassed]
    if any(guarded.guards_state not in known.states for code in carried for guarded in code.guarded_codes):
        known.leave_out("some of it was made without the facts that have to be compared")
        return None
    wanted = {name for code in carried for name in code.backend_ids}
    artifacts = PrecompileContext._backend_artifacts_by_key  # noqa: SLF001
    if not carried or not wanted <= artifacts.keys():
        reason = "a graph is not complete: its backward pass has not run, or AOTAutograd cannot keep it"
        observer.precompiled(known.name, "incomplete", reason)
        return None
    whole = PrecompileCacheEntry(
        dynamo=dataclasses.replace(entry, codes=codes), backends={name: artifacts[name] for name in sorted(wanted)}
    )
    code = digest_of_code(package._innermost_fn.__code__)  # noqa: SLF001
    whole.tritonsync = {"code": code, "sources": known.sources, "classes": known.classes}
    try:
        return pickle.dumps(whole)
    except Exception as exc:  # noqa: BLE001 - torch's objects may refuse in any way
        known.leave_out(f"it cannot be pickled, {reason_of(exc)}")
        return None


def trouble_with(data: bytes) -> str | None:
    """Load the graphs of a result once, as its guards were when they were made; return what is wrong, or None."""
    try:
        for artifact in pickle.loads(data).backends.values():  # noqa: S301 - our own
            artifact.after_deserialization()
    except Exception as exc:  # noqa: BLE001 - as above
        return f"it cannot be loaded back, {reason_of(exc)}"
    return None


def _as_carried(code: Any) -> Any:  # noqa: ANN401
    # One without results would be skipped for good where it is loaded, traced or not.
    return code if code.guarded_codes else dataclasses.replace(code, bypassed=True)


def initialize(package: Any, wanted: Any) -> None:  # noqa: ANN401
    """Make a package ready for a function of which nothing is known.

    torch takes the function's word for the module that it belongs to, and a decorator may have given it another one's;
    what counts is whose globals it has.
    """
    package.initialize(wanted, None, False)
    function = package._innermost_fn  # noqa: SLF001
    home = function.__globals__.get("__name__")
    if home in sys.modules:
        package._codes[function.__code__].python_module = home  # noqa: SLF001


def put_in_place(
    package: Any,  # noqa: ANN401
    wanted: Any,  # noqa: ANN401
    known: Function,
    data: bytes,
    used: Callable[[], None],
    *,
    may_import: bool = True,
) -> str | None:
    """Load a result; return why it is not taken, or None. The caller holds torch's compile lock.

    Args:
        package: of the function; as if nothing had been found, where it is not taken.
        wanted: the function, as the package was made for it.
        known: the same.
        data: the result.
        used: called when one of its graphs runs for the first time.
        may_import: whether the program has come so far that its modules may be imported here.
    """
    from torch._dynamo.precompile_context import PrecompileContext

    try:
        entry = pickle.loads(data)  # noqa: S301 - checked against a manifest, signed where keys are set
        if not may_import:
            _find_imported(entry)
        _compare_code(package._innermost_fn.__code__, entry.tritonsync["code"])  # noqa: SLF001
        _compare(entry.tritonsync["sources"], entry.tritonsync["classes"])
        type(package).__init__(package, None)
        package.initialize(wanted, entry.dynamo, False)
        _compare_named_codes(package)
        _compare_names(package)
        # torch copies them, which it cannot any more when the kernels are loaded (`CachingAutotuner.__getstate__`).
        for artifact in entry.backends.values():
            PrecompileContext.record_artifact(artifact)
        _install(package, {name: _Restored(artifact, used) for name, artifact in entry.backends.items()})
    except Exception as exc:
        log.debug("where loading failed", exc_info=True)
        start_anew(package, wanted)
        return reason_of(exc)
    known.sources.update(entry.tritonsync["sources"])
    known.classes.update(entry.tritonsync["classes"])
    known.states.update(guarded.guards_state for code in entry.dynamo.codes for guarded in code.guarded_codes)
    return None


def _find_imported(entry: Any) -> None:  # noqa: ANN401
    """See that all modules of the program that a result needs are imported.

    Raises:
        UnknownObjectError: one of them is not, or is just being imported.
    """
    named = {name for code in entry.dynamo.codes for name in (code.python_module, *code.import_sources.values())}
    classes = {module for module, _ in entry.tritonsync["classes"]}
    for name in {*named, *classes, *entry.tritonsync["sources"]}:
        spec = getattr(sys.modules.get(name), "__spec__", None)
        is_there = name in sys.modules and not getattr(spec, "_initializing", False)
        if not is_there and not is_versioned(name):
            raise UnknownObjectError(f"module {name} is not imported yet")


def is_same(package: Any, known: Function) -> bool:  # noqa: ANN401
    """Whether what was put in place would still be: the program may have changed since."""
    try:
        _compare(known.sources, known.classes)
        _compare_named_codes(package)
    except UnknownObjectError:
        return False
    return True


def _compare_code(code: types.CodeType, digest: str) -> None:
    if digest_of_code(code) != digest:
        raise UnknownObjectError("its code is another one")


def _compare(sources: dict[str, str], classes: dict[tuple[str, str], str]) -> None:
    """Compare what a result was made of with what is here.

    Raises:
        UnknownObjectError: something is another one.
    """
    for name, digest in sources.items():
        importlib.import_module(name)
        if digest_of_source(name) != digest:
            raise UnknownObjectError(f"the source of {name} is another one")
    for (module, qualname), digest in classes.items():
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part, None)
        if digest_of(found) != digest:
            raise UnknownObjectError(f"class {module}.{qualname} is another one")


def _compare_named_codes(package: Any) -> None:  # noqa: ANN401
    """Compare the functions after the first that the result was made for, which torch finds by their names."""
    from torch._dynamo.package import SerializedCode, _lookup_code

    for entry in package._codes.values():  # noqa: SLF001
        if entry.code_source:
            there = digest_of_code(_lookup_code(entry))
            if there != digest_of_code(SerializedCode.to_code_object(entry.python_code)):
                raise UnknownObjectError(f"the code of {entry.function_names[0]} is another one")


def _compare_names(package: Any) -> None:  # noqa: ANN401
    """Make sure that what is about to be put into the globals of modules replaces nothing but its equal."""
    names = set()
    for entry in package._codes.values():  # noqa: SLF001
        resumed = entry.function_names if entry.install_to_global else ()
        names |= {(entry.python_module, name) for name in (*entry.backend_ids, *resumed)}
    for module, name in names - _brought:
        if name in vars(sys.modules[module]):
            raise UnknownObjectError(f"there is another {name} in {module}")
    _brought.update(names)


def _install(package: Any, backends: dict[str, Any]) -> None:  # noqa: ANN401
    # `install` first forgets all that is loaded for the same code, which may be of another instance, or of a function
    # that closes over something else. There is nothing of this package yet.
    package.uninstall = lambda: None
    try:
        package.install(backends)
    finally:
        del package.uninstall


def start_anew(package: Any, wanted: Any) -> None:  # noqa: ANN401
    """Leave a package as if nothing had been found."""
    from torch._C._dynamo.eval_frame import _reset_precompile_entries
    from torch._dynamo.package import _lookup_code

    for module, names in package._installed_globals.items():  # noqa: SLF001
        for name in names:
            vars(module).pop(name, None)
    for code, entry in package._codes.items():  # noqa: SLF001
        try:
            _reset_precompile_entries(_lookup_code(entry) if entry.code_source else code)
        except Exception:  # noqa: PERF203 - then nothing was put there
            log.debug("not found: %s", entry.function_names, exc_info=True)
    type(package).__init__(package, None)
    initialize(package, wanted)


class _Restored:
    """The artifact of one graph; tells when it is used.

    Args:
        artifact: torch's `BackendCacheArtifact`.
        used: called when the graph runs for the first time.
    """

    def __init__(self, artifact: Any, used: Callable[[], None]) -> None:  # noqa: ANN401
        self._artifact, self._used = artifact, used

    def after_deserialization(self) -> Callable[..., Any]:
        """Return the compiled graph; called by torch."""
        compiled = self._artifact.after_deserialization()
        is_first = True

        @functools.wraps(compiled)
        def noting(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            nonlocal is_first
            if is_first:
                is_first = False
                self._used()
            return compiled(*args, **kwargs)

        return noting
