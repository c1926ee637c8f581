"""Where a URL points to, and which object names fit below it. Nothing is imported or asked for here but fsspec's list.

::

    s3://bucket/prefix    s3a://bucket/prefix    gs://bucket/prefix    gcs://bucket/prefix
    /folder    ~/folder    folder    file:///folder    local:///folder
    memory://prefix    and whatever else fsspec can open
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from tritonsync.errors import HostileNameError, SettingsError
from tritonsync.format.layout import check_name
from tritonsync.redaction import redact

__all__ = ["Address", "parse_url"]

#: Longest object name that S3 and GCS take, in bytes, the prefix included.
MAX_NAME = 1024

_S3 = frozenset({"s3", "s3a"})
_GCS = frozenset({"gs", "gcs"})
_FOLDER = frozenset({"file", "local"})
_READ_ONLY = frozenset({"http", "https", "data", "github", "git", "zip", "tar", "reference"})
# s3://arn:aws:s3:<region>:<account>:accesspoint/<name>/<prefix>: here the bucket holds slashes and colons.
_ARN = re.compile(r"(arn:[^/]+:accesspoint[:/][^/]+|arn:[^/]+)(?:/|$)")


@dataclasses.dataclass(frozen=True)
class Address:
    """One URL, taken apart.

    Attributes:
        url: the URL in one spelling: no slash at the end, none doubled. Objects are named in messages as `url/name`.
        protocol: fsspec's name of the filesystem.
        bucket: the bucket of an object store, "" elsewhere.
        prefix: what comes before every object name: ends with a slash, or is empty.
    """

    url: str
    protocol: str
    bucket: str
    prefix: str

    def __repr__(self) -> str:
        return f"Address({self.show('')!r})"

    @property
    def is_s3(self) -> bool:
        """Whether this is S3 or speaks its protocol."""
        return self.protocol in _S3

    @property
    def is_gcs(self) -> bool:
        """Whether this is Google Cloud Storage."""
        return self.protocol in _GCS

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder that this host has mounted."""
        return self.protocol in _FOLDER

    @property
    def extra(self) -> str | None:
        """The optional dependency that brings the filesystem, None where there is none for it."""
        return "s3" if self.is_s3 else "gcs" if self.is_gcs else None

    def show(self, name: str) -> str:
        """Return the full URL of an object or prefix, for messages: without the secrets that a URL may hold."""
        return redact(f"{self.url}/{name}" if name else self.url)

    def check(self, name: str) -> str:
        """Return `name` if an object below this URL may be called so.

        Raises:
            HostileNameError: a part that is not `[A-Za-z0-9_.-]{1,255}`, or 1,024 bytes and more with the prefix.
        """
        for part in name.split("/"):
            check_name(part, f"part of object name {name[:80]!r},")
        length = len((self.prefix + name).encode())
        if length >= MAX_NAME:
            raise HostileNameError(
                f"object name {self.show(name)[:80]}... has {length} bytes, and object stores take less than "
                f"{MAX_NAME}; choose a shorter prefix"
            )
        return name

    def check_prefix(self, prefix: str) -> str:
        """Return `prefix` if it is empty, or parts of names with a slash at the end.

        Raises:
            HostileNameError: it is something else.
        """
        if prefix and not prefix.endswith("/"):
            raise HostileNameError(f"prefix {prefix[:80]!r} does not end with a slash")
        if prefix:
            self.check(prefix[:-1])
        return prefix


def parse_url(url: str) -> Address:
    """Take a URL apart and check what can be checked without asking anybody.

    Raises:
        SettingsError: it is empty, its scheme is unknown, or it names no bucket; the message says what would be right.
    """
    url = url.strip()
    if not url:
        raise SettingsError(
            "the URL is empty", hint="give one such as s3://bucket/prefix, gs://bucket/prefix or a folder"
        )
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _folder(url)
    protocol = scheme.lower()
    if "::" in scheme:
        raise SettingsError(f"{url!r} chains filesystems with '::'", url=url, hint="give the URL of the bucket itself")
    if protocol in _READ_ONLY:
        raise SettingsError(
            f"{url!r} cannot be written",
            url=url,
            hint="give s3://bucket/prefix or gs://bucket/prefix, and the address of a server of your own as "
            "AWS_ENDPOINT_URL or STORAGE_EMULATOR_HOST",
        )
    if not _is_known(protocol):
        raise SettingsError(
            f"{url!r}: no filesystem is called {protocol!r}", url=url, hint="give s3://, gs://, or a folder"
        )
    if protocol in _FOLDER:
        if rest and not rest.startswith(("/", "~")):
            raise SettingsError(
                f"{url!r} names {rest.partition('/')[0]!r} as a host", url=url, hint=f"write {protocol}:///{rest}"
            )
        return _folder(rest)
    if protocol in _S3 | _GCS:
        return _object_store(url, protocol, rest)
    path = rest.rstrip("/")
    return _measured(
        Address(url=f"{protocol}://{path}", protocol=protocol, bucket="", prefix=f"{path}/" if path else "")
    )


def _is_known(protocol: str) -> bool:
    if protocol in _S3 | _GCS | _FOLDER:
        return True
    import fsspec  # not at the top: it takes longer to import than the rest of this room

    # The second are those that the program itself has registered.
    return protocol in fsspec.available_protocols() or protocol in fsspec.registry


def _folder(path: str) -> Address:
    scheme = path.partition(":")[0].lower()
    # One letter is a drive. `s3:/bucket` would otherwise become a folder called "s3:" without a word.
    if len(scheme) > 1 and ":" in path and _is_known(scheme):
        raise SettingsError(
            f"{path!r} looks like a URL without '//'",
            url=path,
            hint=f"write {scheme}://..., or ./{path} for a folder",
        )
    if not path:
        raise SettingsError("the URL names no folder", hint="give one such as file:///var/cache/kernels")
    # Made absolute once, so that a program that changes its directory keeps its bucket.
    try:
        folder = Path(path).expanduser().absolute()
    except RuntimeError as exc:
        raise SettingsError(f"{path!r}: no home folder is known for {path.partition('/')[0]}", url=path) from exc
    return Address(url=str(folder), protocol="file", bucket="", prefix="")


def _object_store(url: str, protocol: str, rest: str) -> Address:
    arn = _ARN.match(rest)
    bucket = arn.group(1) if arn else rest.partition("/")[0]
    if not bucket:
        raise SettingsError(f"{url!r} names no bucket", url=url, hint=f"write {protocol}://bucket/prefix")
    if redact(f"{protocol}://{rest}").startswith(f"{protocol}://***@"):
        raise SettingsError(
            f"{url!r} holds credentials, which do not belong there",
            url=url,
            hint=f"write {protocol}://bucket/prefix, and give them as the cloud's own variables and files do, or as "
            "TRITONSYNC_STORAGE_OPTIONS",
        )
    parts = [part for part in rest[len(bucket) :].split("/") if part]
    for part in parts:
        if part in (".", "..") or any(character in part for character in "?#*[]") or not part.isprintable():
            raise SettingsError(
                f"{url!r}: the prefix part {part!r} cannot stand in an object name", url=url, hint="choose another"
            )
    prefix = "".join(part + "/" for part in parts)
    return _measured(
        Address(url=f"{protocol}://{bucket}/{prefix}".rstrip("/"), protocol=protocol, bucket=bucket, prefix=prefix)
    )


def _measured(address: Address) -> Address:
    # What must fit below it: bundles/<kind>/<key>/<variant>/<bundle id>/payloads/<name>, of ordinary lengths.
    if len(address.prefix.encode()) > MAX_NAME // 2:
        raise SettingsError(
            f"the prefix of {address.show('')[:80]}... has {len(address.prefix.encode())} bytes; object names below it "
            f"would not stay under {MAX_NAME}",
            url=address.show(""),
            hint="choose a shorter one",
        )
    return address
