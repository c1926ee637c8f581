"""The key files that the settings name, as signer and trust policy."""

from __future__ import annotations

from pathlib import Path

from tritonsync.errors import SettingsError
from tritonsync.format.signing import Signer, TrustPolicy
from tritonsync.settings import VARIABLES, Settings

__all__ = ["signer_of", "trust_of"]


def signer_of(settings: Settings) -> Signer | None:
    """Return what signs manifests, or None where no key is set.

    Raises:
        SettingsError: the key cannot be read, or is none; the message names the variable and the file.
    """
    if settings.signing_key is None:
        return None
    variable = VARIABLES["signing_key"][0]
    return Signer.from_pem(
        _read(variable, settings.signing_key), f"{variable}={settings.signing_key}", settings.namespace
    )


def trust_of(settings: Settings) -> TrustPolicy:
    """Return whose signatures count; everything is trusted where no key is set.

    Raises:
        SettingsError: a key cannot be read, or is none; the message names the variable and the file.
    """
    variable = VARIABLES["trusted_keys"][0]
    pems = []
    for path in settings.trusted_keys:
        pems.append(_read(variable, path))
        try:
            TrustPolicy.from_pems(pems[-1:])
        except SettingsError as exc:
            raise SettingsError(f"{variable}, {path}: {exc}", variable=variable, path=path) from exc
    return TrustPolicy.from_pems(pems, settings.namespace)


def _read(variable: str, path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as exc:
        raise SettingsError(
            f"{variable}: the key file {path} cannot be read: {exc.strerror or exc}", variable=variable, path=path
        ) from exc
