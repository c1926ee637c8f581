"""What the user chose. Standard library only, and the only file that reads `os.environ`.

Each setting is taken from the argument, else from its variable, else from the default; an empty variable counts as
unset. A value that cannot be understood is a `SettingsError` that names the variable.

Imports: errors, times.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, cast, get_args

from tritonsync import times
from tritonsync.errors import SettingsError

__all__ = ["VARIABLES", "Files", "Mode", "Settings"]

Mode = Literal["read-write", "read-only", "off"]
Files = Literal["all", "launch"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One frozen value, made once per process.

    Attributes:
        url: the bucket and prefix, `s3://bucket/prefix`, `gs://bucket/prefix`, or a folder. None: tritonsync is off.
        mode: `read-write`, `read-only` or `off`.
        enabled: the tri-state switch: True or False decide alone, None leaves the decision to the other settings.
        workload: the name under which a run records what it used; None: derived from the program's name.
        files: which files of a kernel folder to emit: `all`, or only those that a `launch` needs.
        budget_s: seconds that a process may wait for the bucket in vain before it goes on without.
        flush_s: seconds that the upload of the rest may take at exit.
        signing_key: path of an Ed25519 private key (PEM); manifests are signed with it.
        trusted_keys: paths of Ed25519 public keys (PEM); when there are any, everything else is refused.
        storage_options: passed to the fsspec filesystem untouched.
        strict: raise inside plugins instead of falling back to a normal compile (tests, CI).
        quiet: no summary line at exit.
        force_disable_caches: torch's own master switch.
        inductor_dir: where torch was told to keep Inductor's cache; None: its default.
        triton_dir: where Triton was told to keep its cache; torch then uses it for every device. None: their defaults.
        cpu_capability: what the user lowers torch's vector instruction set to; None: not at all.
        precompile: keep what Dynamo makes of functions too, and start without tracing them.
        report_dir: where each process of a watched run (`tritonsync run`) writes what it compiled; None: not watched.
    """

    url: str | None = None
    mode: Mode = "read-write"
    enabled: bool | None = None
    workload: str | None = None
    files: Files = "all"
    budget_s: float = times.BUDGET_S
    flush_s: float = times.FLUSH_S
    signing_key: str | None = None
    trusted_keys: tuple[str, ...] = ()
    storage_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    strict: bool = False
    quiet: bool = False
    force_disable_caches: bool = False
    inductor_dir: str | None = None
    triton_dir: str | None = None
    cpu_capability: str | None = None
    precompile: bool = False
    report_dir: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether anything is to be done at all.

        An explicit `enabled` wins. Otherwise a URL is needed, the mode must not be `off`, and torch's caches must not
        be disabled as a whole.
        """
        if self.enabled is not None:
            return self.enabled
        return self.url is not None and self.mode != "off" and not self.force_disable_caches

    @property
    def is_untrusted(self) -> bool:
        """Whether only signed bundles are taken, and there is no key to sign with."""
        return bool(self.trusted_keys) and self.signing_key is None

    @property
    def may_write(self) -> bool:
        """Whether the bucket may be written: not with what this process itself would not trust."""
        return self.is_active and self.mode == "read-write" and not self.is_untrusted

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:  # noqa: ANN401
        """Read the variables of `VARIABLES`; what is given as an argument and is not None wins.

        Raises:
            SettingsError: a variable whose value cannot be understood.
        """
        env = os.environ if environ is None else environ
        values = {name: value for name, value in given.items() if value is not None}
        for field, (variable, parse) in VARIABLES.items():
            if field not in values and env.get(variable, "") != "":
                values[field] = parse(variable, env[variable])
        return cls(**values)


def _text(_variable: str, text: str) -> str:
    return text


def _seconds(variable: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= times.MAX_S:
        limits = f"0 to {times.MAX_S:g}"
        raise SettingsError(
            f"{variable}={text!r} is not a number of seconds ({limits}); give one, such as 20", variable=variable
        )
    return seconds


def _switch(variable: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise SettingsError(f"{variable}={text!r} is neither on nor off; set it to 1 or 0", variable=variable)


def _torch_switch(_variable: str, text: str) -> bool:
    # torch reads its own switch as `== "1"` (torch/_inductor/config.py, 2.13) and accepts whatever else is there.
    return text == "1"


def _choice(options: tuple[T, ...]) -> Callable[[str, str], T]:
    def parse(variable: str, text: str) -> T:
        if text.lower() not in options:
            raise SettingsError(f"{variable}={text!r} is none of {', '.join(map(str, options))}", variable=variable)
        return cast("T", text.lower())

    return parse


def _paths(_variable: str, text: str) -> tuple[str, ...]:
    return tuple(path for path in text.split(os.pathsep) if path)


def _json_object(variable: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SettingsError(f'{variable} is not a JSON object; give one, such as {{"anon": true}}', variable=variable)
    return value


#: Settings field -> (environment variable, parser).
VARIABLES: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "url": ("TRITONSYNC_URL", _text),
    "mode": ("TRITONSYNC_MODE", _choice(get_args(Mode))),
    "workload": ("TRITONSYNC_WORKLOAD", _text),
    "files": ("TRITONSYNC_FILES", _choice(get_args(Files))),
    "budget_s": ("TRITONSYNC_BUDGET_S", _seconds),
    "flush_s": ("TRITONSYNC_FLUSH_S", _seconds),
    "signing_key": ("TRITONSYNC_SIGNING_KEY", _text),
    "trusted_keys": ("TRITONSYNC_TRUSTED_KEYS", _paths),
    "storage_options": ("TRITONSYNC_STORAGE_OPTIONS", _json_object),
    "strict": ("TRITONSYNC_STRICT", _switch),
    "quiet": ("TRITONSYNC_QUIET", _switch),
    "force_disable_caches": ("TORCHINDUCTOR_FORCE_DISABLE_CACHES", _torch_switch),
    "inductor_dir": ("TORCHINDUCTOR_CACHE_DIR", _text),
    "triton_dir": ("TRITON_CACHE_DIR", _text),
    "cpu_capability": ("ATEN_CPU_CAPABILITY", _text),
    "precompile": ("TRITONSYNC_PRECOMPILE", _switch),
    "report_dir": ("TRITONSYNC_REPORT_DIR", _text),
}
