"""The list of bundles that one run used, so that the next start can fetch them before they are asked for."""

from __future__ import annotations

import hashlib

import msgspec

from tritonsync.errors import FormatError
from tritonsync.format.bundle import KINDS, Bundle, Payload, kernel_order
from tritonsync.format.kernel import Kernel
from tritonsync.format.layout import check_name, workload_key
from tritonsync.format.manifest import Manifest

__all__ = [
    "LIST",
    "Workload",
    "WorkloadEntry",
    "bundle_of_part",
    "bundle_of_workload",
    "checked_path",
    "is_part",
    "path_id",
    "workload_of_manifest",
]

#: The payload that holds the list; small, so it stands in the manifest.
LIST = "workload.json"
#: How variants of bundles of many kernels begin.
_PART = "part-"


class WorkloadEntry(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One bundle: its kind, its key (whole), and the variant that was used."""

    kind: str
    key: str
    variant: str


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What a run used.

    Attributes:
        inductor_dir: the writer's Inductor folder, whose path its values hold; for people, so without a user's name.
        entries: sorted.
        path_id: tells whether another folder has the very same path, see `path_id`; None in buckets written before.
    """

    inductor_dir: str
    entries: tuple[WorkloadEntry, ...]
    path_id: str | None = None

    def is_made_in(self, inductor_dir: str) -> bool:
        """Whether the writer's Inductor folder has this path."""
        return self.inductor_dir == inductor_dir if self.path_id is None else self.path_id == path_id(inductor_dir)


def path_id(path: str) -> str:
    """Return the first 16 hex digits of sha256 over a path: enough to compare it, without naming it."""
    return hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:16]


def bundle_of_workload(name: str, workload: Workload, kernels: tuple[Kernel, ...] = ()) -> Bundle:
    """Make the bundle of a workload, with the kernels that belong to no listed bundle.

    Raises:
        FormatError: the folder's path is not UTF-8.
    """
    checked_path(workload.inductor_dir)
    ordered = msgspec.structs.replace(workload, entries=tuple(sorted(set(workload.entries))))
    payload = Payload(LIST, msgspec.json.encode(ordered))
    return Bundle(kind="workload", key=workload_key(name), kernels=kernels, payloads=(payload,))


def bundle_of_part(kernels: tuple[Kernel, ...]) -> Bundle:
    """Make a bundle of kernels that belong to no graph and are too many for the bundle of their workload.

    It lies under the hash of its first kernel, `triton/<hash>`, in a variant of its own, made of the content: there it
    is in nobody's way who looks for that one kernel.
    """
    ordered = sorted(kernels, key=kernel_order)
    digest = hashlib.sha256("\n".join(map(str, map(kernel_order, ordered))).encode()).hexdigest()
    return Bundle(kind="triton", key=ordered[0].hash, variant=f"{_PART}{digest[:16]}", kernels=kernels)


def is_part(entry: WorkloadEntry) -> bool:
    """Return whether an entry is a bundle of many kernels of no graph, rather than of the one that its key names."""
    return entry.kind == "triton" and entry.variant.startswith(_PART)


def checked_path(path: str) -> str:
    """Return the path of a cache folder if a list can name it.

    Raises:
        FormatError: it is not UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        raise FormatError(
            f"the path of the cache folder, {path!a}, is not UTF-8, so no workload can name it; use another folder"
        ) from exc
    return path


def workload_of_manifest(manifest: Manifest) -> Workload:
    """Read the list of a workload's bundle, which stands in its manifest.

    Raises:
        FormatError: it is not there, or is no such list.
    """
    try:
        workload = msgspec.json.decode((manifest.inline or {}).get(LIST, ""), type=Workload)
    except msgspec.MsgspecError as exc:
        raise FormatError(f"workload {manifest.key}: {LIST} is not a list of bundles: {exc}") from exc
    for entry in workload.entries:
        if entry.kind not in KINDS:
            raise FormatError(f"workload {manifest.key}: kind {entry.kind[:80]!r} does not exist")
        check_name(entry.variant, "variant")
    return workload
