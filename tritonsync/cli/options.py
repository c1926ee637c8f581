"""Options that several commands have, and what is opened with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritonsync import times
from tritonsync.cli import ahead
from tritonsync.errors import LocalCacheError, SettingsError
from tritonsync.settings import VARIABLES, Settings

if TYPE_CHECKING:
    from tritonsync.format.manifest import Environment
    from tritonsync.remote.bucket import Bucket
    from tritonsync.store import Store
    from tritonsync.sync.caches import LocalCaches

__all__ = [
    "Connection",
    "InductorDir",
    "Json",
    "StorageOptions",
    "Timeout",
    "TritonDir",
    "Url",
    "Workload",
    "check_given",
    "local_caches",
]


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter('not a JSON object; give one, such as {"anon": true}')
    return value


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help=f"The bucket and prefix: s3://bucket/prefix, gs://bucket/prefix, or a folder. [{VARIABLES['url'][0]}]",
        show_default=False,
    ),
]
StorageOptions = Annotated[
    Any,
    typer.Option(
        "--storage-options",
        parser=_json_object,
        metavar="JSON",
        help=f"Passed to the fsspec filesystem. [{VARIABLES['storage_options'][0]}]",
        show_default=False,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=0.1,
        max=times.MAX_S,
        metavar="SECONDS",
        help="For each request to the bucket, repetitions included.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Workload = Annotated[
    str | None,
    typer.Option(
        "--workload",
        help=f"The name of the list of everything that one program needs. [{VARIABLES['workload'][0]}]",
        show_default=False,
    ),
]
InductorDir = Annotated[
    Path | None,
    typer.Option(
        "--inductor-dir",
        help=f"Inductor's cache folder. [{VARIABLES['inductor_dir'][0]}, else /tmp/torchinductor_<user>]",
        show_default=False,
    ),
]
TritonDir = Annotated[
    Path | None,
    typer.Option(
        "--triton-dir",
        help="Triton's cache folder: of kernels, or of one folder a device with kernels. "
        f"[{VARIABLES['triton_dir'][0]}, else `triton` in Inductor's folder]",
        show_default=False,
    ),
]


class Connection:
    """The bucket of a command, with the settings it was opened with.

    Args:
        context: of the command; the connection is closed when it ends.
        url: as the option gives it.
        storage_options: as the option gives them.
        timeout: seconds for a request.
        otherwise: the URL where neither option nor variable names one.

    Raises:
        SettingsError: a variable, the URL or a key file is wrong.
    """

    def __init__(
        self,
        context: typer.Context,
        url: str | None,
        storage_options: dict[str, Any] | None,
        timeout: float,
        *,
        otherwise: str | None = None,
    ) -> None:
        self.settings = Settings.from_env(url=url, storage_options=storage_options)
        found = self.settings.url or otherwise
        if found is None:
            raise typer.BadParameter(f"no bucket: give --url, or set {VARIABLES['url'][0]}")
        self._timeout = timeout
        self._ahead = None if storage_options else ahead.take(self.settings, timeout)
        self.bucket: Bucket = self.open(found) if self._ahead is None else self._ahead[0]
        context.call_on_close(self.bucket.close)

    def open(self, url: str) -> Bucket:
        """Return a bucket of these settings; the caller closes it.

        Raises:
            SettingsError: the URL is wrong.
        """
        from tritonsync.remote.bucket import Bucket
        from tritonsync.remote.waiting import RetryPolicy

        return Bucket(
            url,
            storage_options=self.settings.storage_options,
            patience=RetryPolicy.of_command(self._timeout),
            engine=self.settings.engine,
        )

    def store(self, environment: Environment | None = None) -> Store:
        """Return the store in this bucket; what it saves says `environment`."""
        from tritonsync.local.cpu import host_cpu
        from tritonsync.store import Store
        from tritonsync.store.trust import signer_of, trust_of

        return Store(
            self.bucket,
            environment=environment,
            signer=signer_of(self.settings),
            trust=trust_of(self.settings),
            cpu=host_cpu(self.settings.cpu_capability),
        )

    def workload(self, given: str | None) -> str:
        """Return the name of the workload.

        Raises:
            HostileNameError: it cannot be one.
        """
        from tritonsync.format.layout import check_key, workload_key

        name = given or self.settings.workload
        if not name:
            raise typer.BadParameter(f"no workload: give --workload, or set {VARIABLES['workload'][0]}")
        check_key(workload_key(name), "the name of a workload")
        return name

    def check_mode(self, what: str) -> None:
        """Check that the mode lets a command change the bucket; `what` says in the message what it does there.

        Raises:
            SettingsError: it does not.
        """
        if self.settings.mode != "read-write":
            mode = VARIABLES["mode"][0]
            raise SettingsError(f"{mode}={self.settings.mode} does not allow to {what}", variable=mode, hint="unset it")

    def ask_to_write(self) -> None:
        """Find out whether the bucket may be written.

        Raises:
            SettingsError: the settings forbid it.
            RemoteError: the bucket does.
        """
        from tritonsync.errors import AccessDeniedError

        self.check_mode("push")
        if self.settings.is_untrusted:
            trusted, signing = VARIABLES["trusted_keys"][0], VARIABLES["signing_key"][0]
            raise SettingsError(
                f"{trusted} refuses all that is not signed", variable=trusted, hint=f"to push, set {signing} as well"
            )
        if self.bucket.probe() != "read-write":
            raise AccessDeniedError(
                f"{self.bucket.url} can be read but not written with these credentials",
                url=self.bucket.url,
                hint="to push, take those of a writer",
            )

    def ask_to_read(self, *, new: bool = False) -> None:
        """Find out whether the bucket may be read, and is in a format that is known.

        Args:
            new: whether it may be a folder that is yet to be made.

        Raises:
            RemoteError: it cannot be read, or there is none.
        """
        from tritonsync.errors import BucketNotFoundError

        if self.bucket.is_yet_to_be_made and not new:
            url = self.bucket.url
            raise BucketNotFoundError(f"there is no folder {url}", url=url, hint="correct the URL, or push to it first")
        if self._ahead is None:
            self.bucket.probe(write=False)
        else:
            self._ahead[1].result()


def check_given(inductor_dir: Path | None, triton_dir: Path | None) -> None:
    """Check that the folders that options name are there, for a command that reads them.

    Raises:
        LocalCacheError: one is not; it names the option.
    """
    for option, given in (("--inductor-dir", inductor_dir), ("--triton-dir", triton_dir)):
        if given is not None and not given.expanduser().is_dir():
            raise LocalCacheError(f"{option} {given} is not a folder", path=str(given), hint="correct the path")


def local_caches(settings: Settings, inductor_dir: Path | None, triton_dir: Path | None) -> tuple[LocalCaches, Path]:
    """Return the caches that a command works on, and the folder that all kernel folders lie below.

    Raises:
        LocalCacheError: an option names what is no folder.
        UnsafeFolderError: others may write into one of them.
    """
    from tritonsync.local.files import check_owner
    from tritonsync.sync.caches import check_caches

    caches, kernels = _local_caches(settings, inductor_dir, triton_dir)
    check_caches(caches)
    check_owner(kernels)
    return caches, kernels


def _local_caches(settings: Settings, inductor_dir: Path | None, triton_dir: Path | None) -> tuple[LocalCaches, Path]:
    from tritonsync.local.inductor_cache import default_inductor_dir
    from tritonsync.sync.caches import LocalCaches

    for option, given in (("--inductor-dir", inductor_dir), ("--triton-dir", triton_dir)):
        if given is not None and given.exists() and not given.is_dir():
            raise LocalCacheError(f"{option} {given} is not a folder")
    inductor = default_inductor_dir(settings.inductor_dir if inductor_dir is None else str(inductor_dir.expanduser()))
    if triton_dir is not None:
        triton = triton_dir.expanduser().absolute()
        # Where TRITON_CACHE_DIR names the same folder, it has no sub-folder for each device.
        is_flat = settings.triton_dir is not None and Path(settings.triton_dir).absolute() == triton
        return LocalCaches.at(inductor, triton, by_device=not is_flat), triton
    if settings.triton_dir is not None:
        triton = Path(settings.triton_dir).absolute()
        return LocalCaches.at(inductor, triton, by_device=False), triton
    return LocalCaches.at(inductor), inductor / "triton"
