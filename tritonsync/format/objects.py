"""Object names below the URL.

::

    tritonsync.json                                     {"format": 1}; also the write probe
    kernels/<kernel_hash>/<content_id>/<file>           kernel folders, files as Triton wrote them, path replaced
    bundles/<kind>/<key>/<variant>/<bundle_id>/
        manifest.json                                   the bundle exists once this does
        pack.tar.zst                                    kernel files and payloads in one object
        payloads/<name>
    bundles/fx_graph/<key>/autotune/<id>/manifest.json  autotune results of that graph, values inline
"""

from __future__ import annotations

import dataclasses

from tritonsync.format.names import check_name, is_name, safe_key, workload_key

__all__ = [
    "AUTOTUNE",
    "MARKER",
    "MARKER_CONTENT",
    "BundlePlace",
    "kernel_prefix",
    "key_prefix",
    "parse_manifest_name",
]

MARKER = "tritonsync.json"
MARKER_CONTENT = b'{"format": 1}'
#: Stands where a variant would, under an FX key; no variant is ever named so.
AUTOTUNE = "autotune"


@dataclasses.dataclass(frozen=True)
class BundlePlace:
    """Where one bundle lies: the key as it stands in object names, not necessarily the key itself."""

    kind: str
    key: str
    variant: str
    bundle_id: str

    @property
    def prefix(self) -> str:
        """Ends with a slash."""
        return f"bundles/{self.kind}/{self.key}/{self.variant}/{self.bundle_id}/"

    @property
    def manifest(self) -> str:
        """The object that makes the bundle exist."""
        return self.prefix + "manifest.json"

    @property
    def pack(self) -> str:
        """The object that holds all of it."""
        return self.prefix + "pack.tar.zst"

    def payload(self, name: str) -> str:
        """The object of one payload, outside the pack."""
        return f"{self.prefix}payloads/{name}"


def key_prefix(kind: str, key: str) -> str:
    """Return the prefix of all bundles of one key, with a slash at the end."""
    if kind == "workload":
        key = workload_key(key)
    return f"bundles/{kind}/{safe_key(key)}/"


def kernel_prefix(kernel_hash: str, content_id: str) -> str:
    """Return the prefix of one kernel folder, with a slash at the end."""
    return f"kernels/{check_name(kernel_hash, 'kernel hash')}/{check_name(content_id, 'content id')}/"


def parse_manifest_name(name: str) -> BundlePlace | None:
    """Return the place whose manifest this is, or None for any other object."""
    parts = name.split("/")
    if len(parts) != 6 or parts[0] != "bundles" or parts[5] != "manifest.json" or not all(map(is_name, parts)):
        return None
    return BundlePlace(kind=parts[1], key=parts[2], variant=parts[3], bundle_id=parts[4])
