"""What a set-up is and whether it will work, looked at from outside a program: what `tritonsync doctor` does.

Each finding is one line with a status: `ok`, `warn` (it works, and something is not as it should be) or `fail` (it does
not work), and for the last two what to do. Nothing is changed but the bucket's format object, which every first writer
creates.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from tritonsync._version import __version__
from tritonsync.errors import AccessDeniedError, FormatError, RemoteError, TritonSyncError, UnsafeFolderError
from tritonsync.format.layout import FORMAT_OBJECT, MAX_FORMAT_BYTES
from tritonsync.local.files import check_owner
from tritonsync.remote.bucket import Bucket
from tritonsync.settings import VARIABLES, Settings
from tritonsync.store.trust import signer_of, trust_of
from tritonsync.sync.caches import LocalCaches

__all__ = ["TRIED", "Finding", "diagnose"]

Status = Literal["ok", "warn", "fail"]

#: Pairs of torch and triton, by major and minor version, that the project's tests or measurements have run on.
TRIED = frozenset({("2.11", "3.6"), ("2.13", "3.6"), ("2.14", "3.8"), ("2.15", "3.9")})
_PACKAGES = ("torch", "triton", "fsspec", "s3fs", "gcsfs", "obstore")
#: Bytes of free space under which a cache folder is called full.
_SPACE = 2 * 10**9
_SLOW_S = 0.25


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        area: `settings`, `versions`, `hook`, `bucket`, `signatures` or `folders`.
        status: see the module's docstring.
        what: what was found.
        todo: what to do about it; empty where nothing is to be done.
    """

    area: str
    status: Status
    what: str
    todo: str = ""


def diagnose(
    settings: Settings,
    environ: Mapping[str, str],
    caches: LocalCaches,
    triton_dir: Path,
    open_bucket: Callable[[], Bucket],
) -> Iterator[Finding]:
    """Yield findings, the most basic first.

    Args:
        settings: as a program would have them.
        environ: where they come from.
        caches: of this host.
        triton_dir: the folder of its kernel folders.
        open_bucket: opens the bucket of the settings; asked only if there is a URL.
    """
    yield from _settings(settings, environ)
    yield from _versions()
    yield from _hook(settings)
    if settings.url is not None:
        yield from _bucket(settings, open_bucket)
        yield from _signatures(settings)
    for name, folder in (("Inductor's cache", caches.inductor), ("Triton's cache", triton_dir)):
        yield from _folder(name, folder)


def _settings(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    known = {variable: field for field, (variable, _) in VARIABLES.items()}
    for name in sorted(environ):
        if name.startswith("TRITONSYNC_") and name not in known:
            close = difflib.get_close_matches(name, [each for each in known if each.startswith("TRITONSYNC_")], 1)
            meant = f"; did you mean {close[0]}?" if close else ""
            yield Finding("settings", "warn", f"{name} is set and means nothing", f"unset it{meant}")
    for variable, field in sorted(known.items()):
        if environ.get(variable, "") != "":
            value = getattr(settings, field)
            shown = "set" if field == "storage_options" else value
            yield Finding("settings", "ok", f"{field} = {shown} (from {variable})")
    if settings.url is None:
        yield Finding("settings", "fail", "there is no bucket", "set TRITONSYNC_URL, or give --url")
    elif not settings.is_active:
        yield Finding(
            "settings", "warn", "tritonsync is off", "check TRITONSYNC_MODE and TORCHINDUCTOR_FORCE_DISABLE_CACHES"
        )
    elif settings.is_untrusted:
        todo = "set TRITONSYNC_SIGNING_KEY as well where results are to be published"
        yield Finding(
            "settings", "warn", "nothing is published: only signed bundles are trusted, and nothing signs", todo
        )
    else:
        yield Finding("settings", "ok", f"{settings.url}, {settings.mode}")


def _versions() -> Iterator[Finding]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # noqa: PERF203 - each may be missing
            continue
    others = ", ".join(f"{name} {version}" for name, version in found.items())
    yield Finding("versions", "ok", f"tritonsync {__version__}, Python {platform.python_version()}, {others}")
    if "torch" in found and "triton" in found:
        pair = _minor(found["torch"]), _minor(found["triton"])
        if pair in TRIED:
            yield Finding("versions", "ok", f"torch {pair[0]} with triton {pair[1]} is a pair that was tried")
        else:
            tried = ", ".join(f"{torch} with {triton}" for torch, triton in sorted(TRIED))
            todo = f"tried are {tried}; where torch is not as expected, the plugin stays out with one warning"
            yield Finding("versions", "warn", f"torch {pair[0]} with triton {pair[1]} was not tried", todo)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _hook(settings: Settings) -> Iterator[Finding]:
    points = importlib.metadata.entry_points(group="torch.backends")
    if any(point.value.startswith("tritonsync.") for point in points):
        if settings.backend_autoload:
            yield Finding("hook", "ok", "`import torch` loads the plugin")
        else:
            todo = "unset TORCH_DEVICE_BACKEND_AUTOLOAD, or call tritonsync.install()"
            yield Finding("hook", "warn", "`import torch` does not load the plugin: autoload is turned off", todo)
    else:
        todo = "install the package (pip install tritonsync), or call tritonsync.install()"
        yield Finding("hook", "warn", "`import torch` does not load the plugin: its entry point is not installed", todo)


def _bucket(settings: Settings, open_bucket: Callable[[], Bucket]) -> Iterator[Finding]:
    try:
        with open_bucket() as bucket:
            yield Finding("bucket", "ok", f"engine: {bucket.engine.name} ({bucket.engine.reason})")
            yield from _rights(settings, bucket)
    except (RemoteError, FormatError) as exc:
        yield Finding("bucket", "fail", str(exc), "see the message; `tritonsync ls` tries the same")
    except TritonSyncError as exc:
        yield Finding("bucket", "fail", str(exc), "correct the URL or the options")


def _rights(settings: Settings, bucket: Bucket) -> Iterator[Finding]:
    if bucket.is_yet_to_be_made:
        todo = "whoever publishes first makes it; correct the URL if another folder was meant"
        yield Finding("bucket", "warn", f"the folder {bucket.url} is not there yet", todo)
    started = time.perf_counter()
    bucket.get(FORMAT_OBJECT, limit=MAX_FORMAT_BYTES)
    first = time.perf_counter() - started
    yield Finding("bucket", "ok", f"read: allowed, {first:.2f} s for the first request (connecting included)")
    took = []
    for _ in range(3):
        started = time.perf_counter()
        bucket.list("bundles/workload/none/")
        took.append(time.perf_counter() - started)
    latency = sorted(took)[1]
    if latency < _SLOW_S:
        yield Finding("bucket", "ok", f"list: allowed, {latency * 1000:.0f} ms a request")
    else:
        todo = "a hit costs two to four of them; take a bucket in the workers' region"
        yield Finding("bucket", "warn", f"list: allowed, {latency * 1000:.0f} ms a request", todo)
    access = bucket.probe(write=settings.may_write)
    if access == "read-write":
        yield Finding("bucket", "ok", "write: allowed")
    elif settings.may_write:
        todo = "take a writer's credentials, or set TRITONSYNC_MODE=read-only"
        yield Finding("bucket", "warn", "write: refused, so this host publishes nothing", todo)
    else:
        yield Finding("bucket", "ok", "write: not asked for by these settings")
    try:
        # Of an object that is not there: what is refused is refused all the same, and nothing is lost.
        bucket.delete("doctor/none")
        yield Finding("bucket", "ok", "delete: allowed (only `gc`, `rm` and `verify --delete-bad` need it)")
    except AccessDeniedError:
        yield Finding("bucket", "ok", "delete: refused, as it should be for workers")


def _signatures(settings: Settings) -> Iterator[Finding]:
    try:
        signer, trust = signer_of(settings), trust_of(settings)
    except TritonSyncError as exc:
        yield Finding("signatures", "fail", str(exc), "correct the key file")
        return
    if not trust.key_ids:
        todo = "set TRITONSYNC_TRUSTED_KEYS where not everybody who can write may run code here"
        yield Finding(
            "signatures", "warn", "everything in the bucket is trusted: whoever can write it runs code here", todo
        )
    else:
        yield Finding("signatures", "ok", f"trusted keys: {', '.join(sorted(trust.key_ids))}")
    if signer is not None:
        known = not trust.key_ids or signer.key_id in trust.key_ids
        what = f"what this host publishes is signed by key {signer.key_id}"
        if known:
            yield Finding("signatures", "ok", what)
        else:
            yield Finding("signatures", "warn", f"{what}, which it does not trust itself", "add its public key")


def _folder(name: str, folder: Path) -> Iterator[Finding]:
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if not folder.exists():
        writable = os.access(there, os.W_OK)
        status: Status = "ok" if writable else "fail"
        todo = "" if writable else f"make {there} writable, or choose another folder"
        yield Finding("folders", status, f"{name}: {folder} is not there yet", todo)
        return
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        todo = "choose another folder (TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR), or correct its owner"
        yield Finding("folders", "fail", f"{name}: {folder} cannot be written", todo)
        return
    try:
        check_owner(folder)
        yield Finding("folders", "ok", f"{name}: {folder}")
    except UnsafeFolderError as exc:
        yield Finding("folders", "fail", f"{name}: {exc}", "choose a folder of your own")
    free = shutil.disk_usage(folder).free
    if free < _SPACE:
        yield Finding("folders", "warn", f"{name}: {free / 1e9:.1f} GB are free", "make room")
