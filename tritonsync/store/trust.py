"""Key files: those that the settings name, as signer and trust policy, and new ones."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from tritonsync.errors import LocalCacheError, SettingsError
from tritonsync.format.signing import Signer, TrustPolicy, make_pems
from tritonsync.remote.url import parse_url
from tritonsync.settings import VARIABLES, Settings

__all__ = ["KeyFiles", "make_keys", "notice_of_trust", "signer_of", "trust_of"]


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


def notice_of_trust(settings: Settings) -> str | None:
    """Return what whoever starts a program should know of a bucket that anybody may have written to; None: nothing.

    A folder that this user owns, and nobody else may write into, needs no word: whoever can write there can change the
    program itself.
    """
    if settings.url is None or settings.trusted_keys:
        return None
    try:
        address = parse_url(settings.url)
    except SettingsError:
        return None  # said where the bucket is opened
    if address.is_folder and _is_private(address.url):
        return None
    return (
        "whoever can write to the bucket can run code in this program, because "
        f"{VARIABLES['trusted_keys'][0]} names no keys; `tritonsync keygen` makes some"
    )


def _is_private(folder: str) -> bool:
    try:
        found = Path(folder).stat()
    except OSError:
        return True  # it will be made by this user
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


class KeyFiles(NamedTuple):
    """Where the two halves of a new key are."""

    signing: Path
    trusted: Path


def make_keys(folder: Path) -> KeyFiles:
    """Make a key, and write `signing-key.pem` (mode 0600) and `trusted-key.pem` into a folder; both or none.

    Raises:
        LocalCacheError: one of them is there already, or the folder cannot be written.
    """
    files = KeyFiles(folder / "signing-key.pem", folder / "trusted-key.pem")
    written: list[Path] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, pem, mode in zip(files, make_pems(), (0o600, 0o644), strict=True):
            # Exclusive: neither another key nor what a link leads to is ever overwritten.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(path)
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
    except BaseException as exc:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        if isinstance(exc, FileExistsError):
            raise LocalCacheError(
                f"{exc.filename} is there already, and no key is ever overwritten; name another folder with --out",
                path=str(exc.filename),
            ) from exc
        if isinstance(exc, OSError):
            raise LocalCacheError(
                f"cannot write the keys into {folder}: {exc.strerror or exc}", path=str(folder)
            ) from exc
        raise
    return files


def _read(variable: str, path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except (OSError, RuntimeError) as exc:  # RuntimeError: `~name` of nobody
        reason = getattr(exc, "strerror", None) or exc
        raise SettingsError(
            f"{variable}: the key file {path} cannot be read: {reason}", variable=variable, path=path
        ) from exc
