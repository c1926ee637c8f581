"""Every exception that tritonsync raises. What they say holds no secrets, whatever it was put together from.

Imports: redaction.

::

    TritonSyncError
    ├── SettingsError (ValueError)                a variable, option or URL is wrong
    ├── MissingExtraError (ImportError)           the URL needs a package that is not installed
    ├── FormatError (ValueError)                  bytes that do not follow the bucket format
    │   ├── HostileNameError                      a name that could leave its folder
    │   ├── ManifestError                         a manifest that does not validate
    │   │   └── NewerFormatError                  ... because a newer tritonsync wrote it
    │   ├── PackError                             a pack that is truncated, padded, too large or other than promised
    │   ├── UnfitObjectError                      an object that is larger than it may be, or no regular file
    │   ├── ValueSplitError                       a skeleton and kernels that do not make up the value
    │   └── TrustError                            a signature that is missing, unknown or wrong
    ├── LocalCacheError (OSError)                 a folder of this host cannot be read or written
    │   └── UnsafeFolderError                     ... or others could have put code into it
    ├── RemoteError (OSError)                     the bucket answered with an error
    │   ├── AccessDeniedError (PermissionError)   it refused this identity
    │   ├── BucketNotFoundError (FileNotFoundError)
    │   ├── RemoteTimeoutError (TimeoutError)     it did not answer in time
    │   └── RemoteOffError                        not asked: the waiting budget is spent or the breaker is open
    ├── NotInBucketError (LookupError)            what was named is not in the bucket, or its name means several things
    │   └── UnknownWorkloadError                  ... a workload
    ├── BundlerStateError (RuntimeError)          begin_compile inside begin_compile
    └── ColdStartError (RuntimeError)             a run that had to be warm compiled something

Each class also inherits the builtin that a caller would catch anyway. Facts that a caller may want to act on are
attributes, as far as the place that raises knows them: `url`, `object_name` (below the URL), `path`, `variable`,
`workload`, and as `hint` what to do. All survive pickling: Inductor's compile workers send exceptions between
processes.
"""

from __future__ import annotations

from tritonsync.redaction import redact

__all__ = [
    "AccessDeniedError",
    "BucketNotFoundError",
    "BundlerStateError",
    "ColdStartError",
    "FormatError",
    "HostileNameError",
    "LocalCacheError",
    "ManifestError",
    "MissingExtraError",
    "NewerFormatError",
    "NotInBucketError",
    "PackError",
    "RemoteError",
    "RemoteOffError",
    "RemoteTimeoutError",
    "SettingsError",
    "TritonSyncError",
    "TrustError",
    "UnfitObjectError",
    "UnknownWorkloadError",
    "UnsafeFolderError",
    "ValueSplitError",
]


class TritonSyncError(Exception):
    """The base of all of them.

    Attributes:
        url: the bucket's URL, where it is about a bucket.
        object_name: the object or prefix below the URL.
        path: the file or folder of this host.
        variable: the environment variable that is to be set or corrected.
        workload: the workload's name.
        hint: what to do, where it is known apart from the message; the message ends with it.
    """

    def __init__(
        self,
        message: str = "",
        *,
        url: str | None = None,
        object_name: str | None = None,
        path: str | None = None,
        variable: str | None = None,
        workload: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(redact(message if hint is None else f"{message}; {hint}"))
        self.url = None if url is None else redact(url)
        self.object_name, self.path = object_name, path
        self.variable, self.workload = variable, workload
        self.hint = None if hint is None else redact(hint)


class SettingsError(TritonSyncError, ValueError):
    """A variable, an option or a URL is wrong; the message names it and says what would be right."""


class MissingExtraError(TritonSyncError, ImportError):
    """The URL needs a package that is not installed; the message gives the pip command."""


class FormatError(TritonSyncError, ValueError):
    """Bytes that do not follow the bucket format; the message names the object."""


class HostileNameError(FormatError):
    """A name that is not `[A-Za-z0-9_.-]{1,255}`, or is `.` or `..`."""


class ManifestError(FormatError):
    """A manifest that is not valid JSON, misses a field or contradicts itself."""


class NewerFormatError(ManifestError):
    """A manifest of a format that this tritonsync does not know yet."""


class PackError(FormatError):
    """A pack that is truncated, padded, larger than promised, or holds something else than promised."""


class UnfitObjectError(FormatError):
    """An object with more bytes than were promised or allowed, or one that is no regular file; it was not read."""


class ValueSplitError(FormatError):
    """A skeleton whose kernels are missing, or which does not rebuild the promised bytes."""


class TrustError(FormatError):
    """A signature that is missing, made by an unknown key, or wrong."""


class LocalCacheError(TritonSyncError, OSError):
    """A folder or file of this host's caches cannot be read or written; the message names it."""


class UnsafeFolderError(LocalCacheError):
    """A cache folder into which another user of this host can write; it is neither read nor written."""


class RemoteError(TritonSyncError, OSError):
    """The bucket answered with an error; the message names the object or prefix."""


class AccessDeniedError(RemoteError, PermissionError):
    """The bucket refused this identity."""


class BucketNotFoundError(RemoteError, FileNotFoundError):
    """The bucket itself does not exist (a missing object is a miss, never an error)."""


class RemoteTimeoutError(RemoteError, TimeoutError):
    """The bucket did not answer in time."""


class RemoteOffError(RemoteError):
    """The bucket was not asked: the waiting budget is spent, or its breaker is open."""


class NotInBucketError(TritonSyncError, LookupError):
    """What was named is not in the bucket, or the name means more than one thing there."""


class UnknownWorkloadError(NotInBucketError):
    """The bucket holds no workload of this name that can be loaded; `workload` and `url` say which."""


class BundlerStateError(TritonSyncError, RuntimeError):
    """`begin_compile` was called while a compile was already being noted."""


class ColdStartError(TritonSyncError, RuntimeError):
    """A run that had to be warm compiled or benchmarked something; the message names each."""
