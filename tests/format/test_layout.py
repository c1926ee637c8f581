import json

import pytest
from hypothesis import given

from tests.format.strategies import names, texts
from tritonsync.errors import HostileNameError
from tritonsync.format.layout import (
    FORMAT_CONTENT,
    BundlePlace,
    kernel_folder_of,
    kernel_prefix,
    key_prefix,
    parse_manifest_name,
    parse_object_name,
    safe_key,
)
from tritonsync.format.manifest import FORMAT


@given(texts.filter(bool), names)
def test_places_are_read_back(key: str, variant: str) -> None:
    """The name of a manifest tells where the bundle lies, and all its objects are below the key's prefix."""
    place = BundlePlace("fx_graph", safe_key(key), variant, "0" * 32)
    assert parse_manifest_name(place.manifest) == place
    for name in (place.manifest, place.pack, place.payload("x")):
        assert name.startswith(key_prefix("fx_graph", key))
        assert ".." not in name.split("/")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "tritonsync.json",
        "bundles/pgo/k/v/id/pack.tar.zst",
        "bundles/pgo/k/v/manifest.json",
        "bundles/pgo/k/v/id/payloads/manifest.json",
        "other/pgo/k/v/id/manifest.json",
        "bundles/pgo/k/../id/manifest.json",
        "bundles/pgo//v/id/manifest.json",
        "bundles/pgo/k y/v/id/manifest.json",
    ],
)
def test_other_objects_are_no_manifests(name: str) -> None:
    """Only the one name under a bundle's own prefix makes it exist."""
    assert parse_manifest_name(name) is None


def test_the_objects_of_bundles_and_kernel_folders_are_known_by_their_names() -> None:
    """Those that a writer makes, and none beside or below them."""
    place = BundlePlace("fx_graph", "key", "default", "0" * 32)
    for name in (place.manifest, place.pack, place.start, place.payload("x"), place.payload("manifest.json")):
        assert parse_object_name(name) == place
        assert parse_object_name(f"{name}/x") is None
        assert parse_object_name(name.replace("0" * 32, "1" * 31)) is None
    assert parse_object_name(place.prefix + "x") is None
    assert kernel_folder_of(f"kernels/HASH/{'0' * 32}/x.cubin") == f"kernels/HASH/{'0' * 32}/"
    for name in ("kernels/HASH/v3/x.cubin", f"kernels/HASH/{'0' * 32}/x/y", f"kernels/../{'0' * 32}/x"):
        assert kernel_folder_of(name) is None


def test_names_are_fixed() -> None:
    """Objects stand where the format says; a workload's spelling does not count."""
    assert key_prefix("workload", "ResNet") == "bundles/workload/resnet/"
    assert key_prefix("fx_graph", "fABC") == "bundles/fx_graph/fABC/"
    assert key_prefix("fx_graph", "../x").count("/") == 3
    assert kernel_prefix("HASH", "0" * 32) == f"kernels/HASH/{'0' * 32}/"
    assert json.loads(FORMAT_CONTENT) == {"format": FORMAT}
    with pytest.raises(HostileNameError):
        kernel_prefix("../x", "0" * 32)
    with pytest.raises(HostileNameError):
        kernel_prefix("HASH", "..")
