"""What the user chose. Standard library only, and the only file that reads `os.environ`.

Each setting is taken from the argument, else from its variable, else from the default; an empty variable counts as
unset. Not so for a setting that protects: there an empty value, such as two unset variables joined by a colon, would
quietly mean "trust everything", and is an error. A value that cannot be understood is a `SettingsError` that names the
variable.

Imports: errors, times, redaction.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, cast, get_args

from tritonsync import times
from tritonsync.errors import SettingsError
from tritonsync.redaction import redact

__all__ = [
    "PROTECTING",
    "VARIABLES",
    "EngineChoice",
    "Files",
    "LogLevel",
    "Mode",
    "Settings",
    "environment",
    "from_variable",
    "launched_rank",
]

Mode = Literal["read-write", "read-only", "off"]
Files = Literal["all", "launch"]
EngineChoice = Literal["auto", "obstore", "s3fs"]
LogLevel = Literal["debug", "info", "warning", "error"]

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
        namespace: part of what is signed; a signature that was made in another namespace does not count.
        storage_options: passed to the fsspec filesystem untouched.
        engine: which client speaks to S3 and GCS: obstore, s3fs (for GCS: gcsfs), or the one that fits.
        strict: raise inside plugins instead of falling back to a normal compile (tests, CI).
        quiet: no line at the start and none at exit.
        log: the level of the logger `tritonsync`; None: as the program or Python has it.
        force_disable_caches: torch's own master switch.
        inductor_dir: where torch was told to keep Inductor's cache; None: its default.
        triton_dir: where Triton was told to keep its cache; torch then uses it for every device. None: their defaults.
        cpu_capability: what the user lowers torch's vector instruction set to; None: not at all.
        metrics: the file that each process adds its counters to at its end: `.prom`, or JSON lines; None: none.
        backend_autoload: whether `import torch` loads plugins by itself.
        precompile: keep what Dynamo makes of functions too, and start without tracing them.
        bundles: cache folders of other libraries that travel, by the names of their presets (`local/presets.py`).
        vllm_artifact: carry what vLLM makes of a whole model too.
        report_dir: where each process of a watched run (`tritonsync run`) writes what it compiled; None: not watched.
        notebook: the notebook that this process is the kernel of, as Jupyter says.
        rank: what the launcher of a distributed job (torchrun and others) calls this process; None: there is none.
        world_size: how many processes it has started.
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
    namespace: str = ""
    storage_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    engine: EngineChoice = "auto"
    strict: bool = False
    quiet: bool = False
    log: LogLevel | None = None
    force_disable_caches: bool = False
    inductor_dir: str | None = None
    triton_dir: str | None = None
    cpu_capability: str | None = None
    metrics: str | None = None
    backend_autoload: bool = True
    precompile: bool = False
    bundles: tuple[str, ...] = ()
    vllm_artifact: bool = False
    report_dir: str | None = None
    notebook: str | None = None
    rank: int | None = None
    world_size: int | None = None

    def __repr__(self) -> str:
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
        return redact(f"Settings({', '.join(shown)})")

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
            if field not in values and (text := env.get(variable)) is not None and (text or field in PROTECTING):
                values[field] = parse(variable, text)
        return cls(**values)


def launched_rank() -> int | None:
    """Return the rank that the launcher of a distributed job gave this process (RANK, as torchrun sets it), if any."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isascii() and rank.isdecimal() and len(rank) < 10 else None


def environment() -> Mapping[str, str]:
    """Return the variables of this process: where settings come from, and what clouds' clients read."""
    return os.environ


def _text(_variable: str, text: str) -> str:
    return text


def _url(variable: str, text: str) -> str:
    # Left as it is: a folder is made absolute where the URL is taken apart.
    if text.startswith("~") and os.path.expanduser(text) == text:  # noqa: PTH111 - Path raises RuntimeError instead
        user = text.partition("/")[0]
        raise SettingsError(f"{variable}={text!r}: no home folder is known for {user}", variable=variable)
    return text


def _seconds(variable: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= times.MAX_S:
        limits = f"0 to {times.MAX_S:g}"
        raise SettingsError(
            f"{variable}={text!r} is not a number of seconds ({limits})",
            variable=variable,
            hint="give one, such as 20",
        )
    return seconds


def _switch(variable: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise SettingsError(f"{variable}={text!r} is neither on nor off", variable=variable, hint="set it to 1 or 0")


def _torch_switch(_variable: str, text: str) -> bool:
    # torch reads its own switch as `== "1"` (torch/_inductor/config.py, 2.13) and accepts whatever else is there.
    return text == "1"


def _count(_variable: str, text: str) -> int | None:
    # Not ours, and other programs may mean something else by it.
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _choice(options: tuple[T, ...]) -> Callable[[str, str], T]:
    def parse(variable: str, text: str) -> T:
        if text.lower() not in options:
            raise SettingsError(f"{variable}={text!r} is none of {', '.join(map(str, options))}", variable=variable)
        return cast("T", text.lower())

    return parse


def _named(variable: str, text: str) -> str:
    if not text.strip():
        raise SettingsError(f"{variable} is set and empty", variable=variable, hint="give it a value, or unset it")
    return text


def _paths(variable: str, text: str) -> tuple[str, ...]:
    paths = tuple(_named(variable, text).split(os.pathsep))
    if not all(path.strip() for path in paths):
        raise SettingsError(
            f"{variable}={text!r} has an empty path in it",
            variable=variable,
            hint=f"separate paths by one {os.pathsep!r} each",
        )
    return paths


def _names(_variable: str, text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _json_object(variable: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SettingsError(
            f"{variable} is not a JSON object", variable=variable, hint='give one, such as {"anon": true}'
        )
    return value


#: Settings field -> (environment variable, parser).
VARIABLES: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "url": ("TRITONSYNC_URL", _url),
    "mode": ("TRITONSYNC_MODE", _choice(get_args(Mode))),
    "workload": ("TRITONSYNC_WORKLOAD", _text),
    "files": ("TRITONSYNC_FILES", _choice(get_args(Files))),
    "budget_s": ("TRITONSYNC_BUDGET_S", _seconds),
    "flush_s": ("TRITONSYNC_FLUSH_S", _seconds),
    "signing_key": ("TRITONSYNC_SIGNING_KEY", _named),
    "trusted_keys": ("TRITONSYNC_TRUSTED_KEYS", _paths),
    "namespace": ("TRITONSYNC_NAMESPACE", _named),
    "storage_options": ("TRITONSYNC_STORAGE_OPTIONS", _json_object),
    "engine": ("TRITONSYNC_ENGINE", _choice(get_args(EngineChoice))),
    "strict": ("TRITONSYNC_STRICT", _switch),
    "quiet": ("TRITONSYNC_QUIET", _switch),
    "log": ("TRITONSYNC_LOG", _choice(get_args(LogLevel))),
    "force_disable_caches": ("TORCHINDUCTOR_FORCE_DISABLE_CACHES", _torch_switch),
    "inductor_dir": ("TORCHINDUCTOR_CACHE_DIR", _text),
    "triton_dir": ("TRITON_CACHE_DIR", _text),
    "cpu_capability": ("ATEN_CPU_CAPABILITY", _text),
    "metrics": ("TRITONSYNC_METRICS", _text),
    "backend_autoload": ("TORCH_DEVICE_BACKEND_AUTOLOAD", _torch_switch),
    "precompile": ("TRITONSYNC_PRECOMPILE", _switch),
    "bundles": ("TRITONSYNC_BUNDLES", _names),
    "vllm_artifact": ("TRITONSYNC_VLLM_ARTIFACT", _switch),
    "report_dir": ("TRITONSYNC_REPORT_DIR", _text),
    # jupyter_server/services/sessions/sessionmanager.py, get_kernel_env: the notebook's path.
    "notebook": ("JPY_SESSION_NAME", _text),
    "rank": ("RANK", _count),
    "world_size": ("WORLD_SIZE", _count),
}

#: Fields of which the variable may not be set and empty.
PROTECTING = frozenset({"signing_key", "trusted_keys", "namespace"})


def from_variable(field: str) -> Any:  # noqa: ANN401 - what the field holds
    """Return what the variable of one setting says; None if it is unset.

    Raises:
        SettingsError: its value cannot be understood.
    """
    variable, parse = VARIABLES[field]
    text = os.environ.get(variable, "")
    return parse(variable, text) if text else None
