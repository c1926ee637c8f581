"""Bundles and kernels of a bucket as rows, text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tritonsync.cli.output import age, amount, size
from tritonsync.errors import FormatError
from tritonsync.format.bundle import FOLDER
from tritonsync.format.folder import list_of_manifest
from tritonsync.format.layout import BundlePlace
from tritonsync.format.manifest import Manifest
from tritonsync.format.workload import workload_of_manifest
from tritonsync.store.catalog import Entry, KernelPlace

__all__ = ["DISPENSABLE", "HEADERS", "bundle_text", "described", "document", "kernel_text", "row"]

HEADERS = ("KIND", "KEY", "VARIANT", "KERNELS", "SIZE", "AGE", "TORCH", "TRITON", "TARGET", "WORKLOADS")
#: Columns that a narrow screen goes without, the least telling first.
DISPENSABLE = ("TARGET", "TRITON", "TORCH", "KERNELS", "WORKLOADS", "VARIANT", "AGE")


def row(entry: Entry, now: float) -> tuple[str, ...]:
    """Return what stands under `HEADERS`; `now` in seconds since 1970."""
    made = entry.environment
    return (
        entry.place.kind,
        entry.key,
        entry.place.variant if entry.generation == 0 else f"{entry.place.variant} (generation {entry.generation})",
        str(entry.kernels),
        size(entry.size),
        "" if entry.modified is None else age(now - entry.modified),
        made.torch or "",
        made.triton or "",
        made.target or "",
        ", ".join(entry.workloads),
    )


def described(entry: Entry) -> dict[str, Any]:
    """Return an entry for JSON."""
    place = entry.place
    rest: dict[str, Any] = msgspec.to_builtins(entry)
    del rest["place"]
    return {"kind": place.kind, "variant": place.variant, "bundle_id": place.bundle_id, **rest}


def document(manifest: Manifest | FormatError) -> dict[str, Any]:
    """Return a manifest, or what is wrong with it, for JSON."""
    if isinstance(manifest, FormatError):
        return {"problem": str(manifest)}
    found: dict[str, Any] = msgspec.to_builtins(manifest)
    return found


def bundle_text(place: BundlePlace, manifest: Manifest | FormatError, workloads: Sequence[str] = ()) -> str:
    """Return all that a person wants to know of a bundle; `workloads` list it."""
    if isinstance(manifest, FormatError):
        return f"{place.prefix}\n  cannot be used: {manifest}"
    made = {name: value for name, value in msgspec.to_builtins(manifest.environment).items() if value}
    facts = [
        ("key", manifest.key),
        ("variant", manifest.variant),
        ("generation", str(manifest.generation) if manifest.generation else ""),
        ("created", manifest.created),
        ("made with", ", ".join(f"{name} {value}" for name, value in made.items())),
        ("guards", manifest.guards),
        ("workloads", ", ".join(workloads)),
        ("compiling took", f"{manifest.compile_seconds:.1f} s" if manifest.compile_seconds else ""),
        ("signed by", manifest.signature.key_id if manifest.signature else ""),
        ("pack", "none" if manifest.pack is None else size(manifest.pack.size)),
        ("content", size(manifest.content_size)),
    ]
    lines = [place.prefix, *(f"  {name:<15} {value}" for name, value in facts if value)]
    if manifest.payloads and manifest.kind != FOLDER:  # there they have no names of their own
        lines.append(f"  {amount(len(manifest.payloads), 'payload')}")
        lines += [f"    {payload.name}  {size(payload.size)}" for payload in manifest.payloads]
    if manifest.kernels:
        lines.append(f"  {amount(len(manifest.kernels), 'kernel')}")
        lines += [f"    {kernel.hash}  {size(kernel.size):>9}  {kernel.name}" for kernel in manifest.kernels]
    lines += _listed(manifest) + _folder(manifest)
    return "\n".join(lines)


def _listed(manifest: Manifest) -> list[str]:
    if manifest.kind != "workload":
        return []
    workload = workload_of_manifest(manifest)
    lines = [f"  lists {amount(len(workload.entries), 'bundle')}, made in {workload.inductor_dir}"]
    return lines + [f"    {entry.kind}/{entry.key}/{entry.variant}" for entry in workload.entries]


def _folder(manifest: Manifest) -> list[str]:
    if manifest.kind != FOLDER:
        return []
    listed = list_of_manifest(manifest)
    lines = [f"  fits where these are the same: {', '.join(f'{name} {text}' for name, text in listed.facts.items())}"]
    return [*lines, f"  {amount(len(listed.files), 'file')}", *(f"    {file.path}" for file in listed.files)]


def kernel_text(build: KernelPlace) -> str:
    """Return the files of a stored kernel, and who uses it."""
    lines = [f"kernels/{build.hash}/{build.content_id}/"]
    lines += [f"    {name}  {size(count)}" for name, count in build.files]
    lines.append(f"  used by {amount(len(build.bundles), 'bundle')}")
    lines += [f"    {prefix}" for prefix in build.bundles]
    return "\n".join(lines)
