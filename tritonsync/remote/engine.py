"""Which client speaks to an object store: s3fs and gcsfs, or obstore (Rust's object_store), which takes less CPU.

obstore finds credentials and settings in fewer places than s3fs and gcsfs do. So it is taken only where it would find
the same, and that is decided here, from options, variables and files alone: nobody is asked over the network.

=====================================================================  ================================================
what is in play                                                        `auto` takes
=====================================================================  ================================================
a folder, or any other filesystem of fsspec                            fsspec's
obstore is not installed                                               s3fs, gcsfs
this process was forked from one that had loaded obstore               s3fs, gcsfs: a Tokio runtime survives no fork
S3: a storage option that obstore has not, requester pays, SSO         s3fs
S3: AWS_PROFILE, or a default profile that says more than a region     s3fs
S3: a variable that only one of the two reads, certificates            s3fs
S3: neither a region nor an endpoint                                   s3fs, which asks where the bucket is
S3: keys as options or variables, anonymous, web identity, container   obstore
S3: nothing of these, on an EC2 machine                                obstore, with the role of the instance
S3: nothing of these, elsewhere                                        s3fs, which says what is missing
GCS: an emulator, or a storage option                                  gcsfs
GCS: key file of a service account or of a user                        obstore
GCS: none, on a machine of Google's                                    obstore, with the service account of the machine
GCS: anything else                                                     gcsfs
=====================================================================  ================================================

`TRITONSYNC_ENGINE=obstore` takes it against all doubts but options that it has not, and a fork; `s3fs` never takes it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tritonsync.errors import MissingExtraError, SettingsError, TritonSyncError
from tritonsync.remote.threads import forget_after_fork
from tritonsync.remote.url import Address, parse_url
from tritonsync.settings import VARIABLES, EngineChoice, Settings, environment

__all__ = ["Engine", "choose", "fsspec_options", "needs_loop"]

_VARIABLE = VARIABLES["engine"][0]


@dataclasses.dataclass(frozen=True)
class Engine:
    """The client of a bucket, and why it was taken.

    Attributes:
        name: `obstore`, or fsspec's package or protocol: `s3fs`, `gcsfs`, `file`, ...
        reason: one line.
        config: what obstore's store is made with; it may hold secrets.
    """

    name: str
    reason: str
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)


class _UnfitError(Exception):
    """Something that obstore cannot be told."""


class _Forks:
    """Remembers whether a parent of this process had loaded obstore."""

    def __init__(self) -> None:
        self.had_obstore = False
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Look once, in the child: whatever loads obstore there later starts a runtime that cannot work."""
        self.had_obstore |= "obstore" in sys.modules


_forks = _Forks()


def choose(address: Address, options: Mapping[str, Any], wanted: EngineChoice, environ: Mapping[str, str]) -> Engine:
    """Decide by the table above.

    Args:
        address: of the bucket.
        options: storage options.
        wanted: what the user wants.
        environ: the variables of this process.

    Raises:
        MissingExtraError: obstore is wanted and not installed.
        SettingsError: obstore is wanted and does not take these options.
    """
    standard = "s3fs" if address.is_s3 else "gcsfs" if address.is_gcs else address.protocol
    if not (address.is_s3 or address.is_gcs):
        return Engine(standard, "obstore is used for S3 and GCS only")
    if wanted == "s3fs":
        return Engine(standard, f"{_VARIABLE}=s3fs")
    if importlib.util.find_spec("obstore") is None:
        if wanted == "obstore":
            raise MissingExtraError(
                f"{_VARIABLE}=obstore needs the package obstore (Python 3.11 or later): pip install 'tritonsync[fast]'"
            )
        return Engine(standard, "obstore is not installed")
    if _forks.had_obstore:
        return Engine(standard, "this process was forked from one that had loaded obstore, which does not survive that")
    tell = _s3 if address.is_s3 else _gcs
    try:
        options = fsspec_options(("s3", "s3a") if address.is_s3 else ("gs", "gcs"), options, environ)
        config, reason, doubts = tell(address, options, environ)
    except _UnfitError as exc:
        if wanted == "obstore":
            raise SettingsError(f"{_VARIABLE}=obstore cannot be followed: {exc}; unset one of both") from exc
        return Engine(standard, str(exc))
    if wanted == "obstore":
        return Engine("obstore", f"{_VARIABLE}=obstore", config)
    return Engine(standard, doubts[0]) if doubts else Engine("obstore", reason, config)


def needs_loop(settings: Settings) -> bool:
    """Whether the client of these settings works on fsspec's event loop, which takes 0.1 s to import."""
    try:
        engine = choose(parse_url(settings.url or ""), settings.storage_options, settings.engine, environment())
    except TritonSyncError:
        return False  # whoever connects says so
    return engine.name not in ("obstore", "file")


def fsspec_options(
    protocols: tuple[str, ...], options: Mapping[str, Any], environ: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return the options over those that fsspec's own configuration has for the protocols.

    fsspec is not imported where there is no configuration.
    """
    folder = Path(environ.get("FSSPEC_CONFIG_DIR") or "~/.config/fsspec").expanduser()
    if "fsspec" not in sys.modules and not folder.is_dir() and not any(name.startswith("FSSPEC_") for name in environ):
        return options
    from fsspec.config import conf

    merged: dict[str, Any] = {}
    for protocol in protocols:
        merged.update(conf.get(protocol, {}))
    return {**merged, **options}


# ---- S3 ----------------------------------------------------------------------------------------------------------

#: Options of s3fs that mean nothing for what is done here.
_MEANINGLESS = frozenset({"default_block_size", "default_cache_type", "skip_instance_cache", "use_listings_cache"})
#: Variables that botocore reads and object_store does not, or not so, and the other way round (object_store 0.14).
_DIFFERENT = (
    "AWS_BUCKET",
    "AWS_BUCKET_NAME",
    "AWS_CHECKSUM_ALGORITHM",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL_STS",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_PROXY_URL",
    "AWS_REQUEST_PAYER",
    "AWS_S3_EXPRESS",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_STS_ENDPOINT",
    "AWS_TOKEN",
    "AWS_UNSIGNED_PAYLOAD",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
)
#: Whose certificates are trusted. obstore could only be told to trust them beside its own.
_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
#: What a default profile may say without changing anything here.
_HARMLESS = frozenset({"cli_pager", "output", "region"})

Told = tuple[dict[str, Any], str, list[str]]


def _s3(address: Address, options: Mapping[str, Any], environ: Mapping[str, str]) -> Told:
    """Return what to tell obstore, how it will find credentials, and what speaks against it.

    Raises:
        _UnfitError: it cannot be told.
    """
    if address.bucket.startswith("arn:") or address.bucket.endswith("--x-s3"):
        raise _UnfitError("the bucket is an access point or a directory bucket")
    given = _s3_options(options)
    files = _AwsFiles(environ)
    endpoint = given.get("endpoint") or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    region = given.get("region") or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or files.region
    source, unsure = _s3_credentials(given, environ)
    doubts = [*_s3_differences(given, files, environ), *unsure]
    # Certificates are none of the business of a server without TLS.
    bundles = [] if (endpoint or "").startswith("http://") else [name for name in _BUNDLES if environ.get(name)]
    doubts += [f"{name} is set, which obstore does not read" for name in bundles]
    if not region and not endpoint:
        doubts.append("no region is set, and obstore does not ask where the bucket is")
    config: dict[str, Any] = {
        "region": region or "us-east-1",
        "skip_signature": bool(given.get("anon")),
        # As botocore does it: the bucket is part of the host's name where it may be, and never of a host of the user's.
        "virtual_hosted_style_request": not (endpoint or given.get("path_style") or "." in address.bucket),
        "disable_bulk_delete": True,
        "conditional_put": "etag",
    }
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    for name, told in (("key", "access_key_id"), ("secret", "secret_access_key"), ("token", "session_token")):
        if given.get(name):
            config[told] = given[name]
    return config, source, doubts


def _s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what s3fs' options say, in one level.

    Raises:
        _UnfitError: of one that obstore has not.
    """
    given: dict[str, Any] = {}
    client = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "aws_session_token": "token"}
    client |= {"endpoint_url": "endpoint", "region_name": "region"}
    for name, value in options.items():
        if name in ("anon", "key", "secret", "token"):
            given[name] = value
        elif name == "endpoint_url":
            given["endpoint"] = value
        elif name == "client_kwargs" and isinstance(value, Mapping) and value.keys() <= client.keys():
            for inner, one in value.items():
                given.setdefault(client[inner], one)
        elif name == "config_kwargs" and value == {"s3": {"addressing_style": "path"}}:
            given["path_style"] = True
        elif not (name in _MEANINGLESS or value is None or (name, value) == ("requester_pays", False)):
            raise _UnfitError(f"obstore has no storage option {name!r}, or not this one")
    return given


def _s3_differences(given: Mapping[str, Any], files: _AwsFiles, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what botocore takes into account and object_store does not."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", *_DIFFERENT):
        if environ.get(name):
            yield f"{name} is set, which obstore does not read as s3fs does"
    if files.settings - _HARMLESS:
        yield "the default profile in AWS' config file says more than a region"
    if files.has_credentials and not (given.get("anon") or given.get("key") or environ.get("AWS_ACCESS_KEY_ID")):
        yield "AWS' credentials file has a default profile"
    if given.get("key") and not given.get("token") and environ.get("AWS_SESSION_TOKEN"):
        yield "AWS_SESSION_TOKEN is set beside keys in the storage options"


def _s3_credentials(given: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return where object_store will find credentials, in botocore's order, and doubts about that."""
    pairs = (
        (given.get("anon"), True, "anonymous, as the storage options say"),
        (given.get("key"), given.get("secret"), "keys in the storage options"),
        (environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY"), "keys in the environment"),
        (environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"), environ.get("AWS_ROLE_ARN"), "web identity"),
        (environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), True, "role of the container"),
        (
            environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
            "role of the container",
        ),
    )
    for first, second, source in pairs:
        if first:
            return source, [] if second else [f"{source}: one half is missing"]
    doubts = []
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" or not _is_made_by("Amazon"):
        doubts.append("no credentials that obstore would find")
    return "role of the instance", doubts


class _AwsFiles:
    """What the default profile of AWS' two files says."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        config = self._default(environ.get("AWS_CONFIG_FILE") or "~/.aws/config")
        credentials = self._default(environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
        self.settings = config.keys()
        self.region = config.get("region")
        self.has_credentials = bool(credentials)

    @staticmethod
    def _default(name: str) -> Mapping[str, str]:
        try:
            text = Path(name).expanduser().read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, RuntimeError, UnicodeError):
            return {"unreadable": ""}  # let botocore say what it thinks of it
        import configparser

        parser = configparser.RawConfigParser(default_section="")
        try:
            parser.read_string(text)
        except configparser.Error:
            return {"unreadable": ""}
        return dict(parser["default"]) if parser.has_section("default") else {}


# ---- GCS ---------------------------------------------------------------------------------------------------------


def _gcs(address: Address, options: Mapping[str, Any], environ: Mapping[str, str]) -> Told:  # noqa: ARG001
    """Return what to tell obstore, how it will find credentials, and what speaks against it.

    object_store speaks GCS' XML interface, which emulators do not have.

    Raises:
        _UnfitError: it cannot be told.
    """
    token = options.get("token")
    for name, value in options.items():
        if name not in {"token", *_MEANINGLESS} and value is not None:
            raise _UnfitError(f"obstore has no storage option {name!r}")
    if token not in (None, "google_default") and not (isinstance(token, str) and Path(token).is_file()):
        raise _UnfitError("obstore has no such token in the storage options")
    different = ("STORAGE_EMULATOR_HOST", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_BASE_URL")
    doubts = ["obstore was not tried against Google's own server"]
    doubts += [f"{name} is set, which obstore does not read as gcsfs does" for name in different if environ.get(name)]
    folder = Path(environ.get("CLOUDSDK_CONFIG") or "~/.config/gcloud").expanduser()
    usual = folder / "application_default_credentials.json"
    found = token if token not in (None, "google_default") else environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if found is None and usual.is_file():
        found = str(usual)
    if found is None:
        if not _is_made_by("Google"):
            doubts.append("no credentials that obstore would find")
        return {}, "service account of the machine", doubts
    key = _key_file(Path(found))
    kind = str(key.get("type"))
    if kind not in ("service_account", "authorized_user"):
        doubts.append(f"{found} is no key file of a service account or user")
    config = {"service_account" if kind == "service_account" else "application_credentials": found}
    if "gcs_base_url" in key:
        config["base_url"] = str(key["gcs_base_url"])
    return config, f"{kind} in {found}", doubts


def _key_file(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


# ---- the machine -------------------------------------------------------------------------------------------------


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


#: Reads a file of the kernel's; tests put another in its place.
read_file: Callable[[str], str] = _read


def _is_made_by(vendor: str) -> bool:
    """Whether the firmware says that this machine is one of the cloud's."""
    return any(vendor in read_file(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
