"""PyTorch's caching precompile in this process: whether it is on, and which functions it is on for."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import itertools
import logging
import os
import random
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

from tritonsync.messages import warn_once
from tritonsync.plugins.digests import UnknownObjectError
from tritonsync.plugins.edge import Patches, UnknownProgramError
from tritonsync.session import session
from tritonsync.session.process import no_fork
from tritonsync.watch import observer

__all__ = [
    "Function",
    "careful",
    "config",
    "functions",
    "hash_triton_ahead",
    "is_on",
    "is_ours",
    "own_number",
    "patches",
    "reason_of",
    "remove",
    "switch_on",
]

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Function:
    """A compiled function, as long as its `CompilePackage` lives.

    Attributes:
        name: for messages.
        key: None until it is first called.
        reason: why it is left out; None: it is not.
        sources: module -> digest of its source, of all that was traced.
        classes: (module, name) -> digest, of the classes that guards name.
        codes: what those classes, and the objects that guards compare by identity, are made of.
        states: guards that were pickled here, or loaded from where they were.
        device: the CUDA device of the program's thread; None for none.
        is_loaded: whether a result of an earlier run was put in its place.
        is_queued: whether it will be published, with all that it has when that happens.
        ahead: what was put in its place before its first call, see precompile_ahead.py.
        is_settled: whether what is in its place may serve.
    """

    name: str
    key: str | None = None
    reason: str | None = None
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    classes: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    codes: set[types.CodeType] = dataclasses.field(default_factory=set)
    states: set[bytes] = dataclasses.field(default_factory=set)
    device: int | None = None
    is_loaded: bool = False
    is_queued: bool = False
    ahead: Any = None
    is_settled: bool = True

    def leave_out(self, reason: str) -> None:
        """Publish nothing of it."""
        if self.reason is None:
            self.reason = reason
            log.info("%s is not precompiled: %s", self.name, reason)
            observer.precompiled(self.name, "left out", reason)


#: torch's `CompilePackage` -> what is known of its function.
functions: weakref.WeakKeyDictionary[Any, Function] = weakref.WeakKeyDictionary()
patches = Patches()
_given_up = False
_switched_on = False
#: A process, and its number.
_numbered = 0, 0


def reason_of(exc: Exception) -> str:
    """Return what to tell of an exception of torch's: ours are sentences, and its own may have no text."""
    return str(exc) if isinstance(exc, UnknownObjectError) else f"{type(exc).__name__}: {exc}"


def careful(patch: Callable[[Any], None]) -> Callable[[Any], None]:
    """Take everything back where torch is not as expected."""

    @functools.wraps(patch)
    def guarded(module: Any) -> None:  # noqa: ANN401
        global _given_up
        if _given_up:
            return
        try:
            patch(module)
        except (UnknownProgramError, AttributeError) as exc:
            remove()
            _given_up = True
            version = getattr(sys.modules.get("torch"), "__version__", "?")
            warn_once(log, "precompile", "precompile stays off: torch %s is not known, %s", version, exc)

    return guarded


def remove() -> None:
    """Take precompile out of torch, and switch the mode off again if it was switched on here."""
    global _given_up, _switched_on
    patches.undo()
    if _switched_on:
        config().caching_precompile = False
    _given_up = _switched_on = False


def config() -> Any:  # noqa: ANN401
    """Return `torch._dynamo.config`, which is imported before anything here is called."""
    return sys.modules["torch._dynamo.config"]


def is_on() -> bool:
    """Whether the mode is on, and there is a session."""
    return bool(config().caching_precompile) and session.current() is not None


def switch_on() -> None:
    """Switch PyTorch's mode on, if the user asked us for it."""
    global _switched_on
    now = session.current()
    if now is not None and now.settings.precompile and not config().caching_precompile:
        config().caching_precompile = _switched_on = True


def hash_triton_ahead() -> None:
    """Have Triton hash itself while the program prepares its model: the first kernel that is loaded waits for that.

    `triton_key` of triton/runtime/cache.py (3.6 to 3.9) reads libtriton.so, hundreds of MB, and keeps the result. It is
    a third of the first call of a function that is restored; hashlib lets go of the GIL meanwhile.
    """
    version = sys.modules["torch"].version
    if is_on() and (version.cuda or version.hip):
        threading.Thread(target=_hash_triton, name="tritonsync-triton-key", daemon=True).start()


def _hash_triton() -> None:
    with contextlib.suppress(Exception):  # Triton is not there, or another: whoever needs it says so
        with no_fork():
            cache = importlib.import_module("triton.runtime.cache")
        cache.triton_key()


def is_ours() -> bool:
    """Whether it was us who switched the mode on, and not the user by TORCH_CACHING_PRECOMPILE."""
    return _switched_on


def own_number() -> int:
    """Return a number of this process's own, from which Dynamo numbers the names it puts into a module's globals.

    A loaded result brings names of another process, and Dynamo raises for a name that is there already.
    """
    global _numbered
    if _numbered[0] != os.getpid():
        _numbered = os.getpid(), random.getrandbits(48)
        transformation: Any = sys.modules["torch._dynamo.bytecode_transformation"]
        transformation._unique_id_counter = itertools.count(_numbered[1])  # noqa: SLF001
    return _numbered[1]
