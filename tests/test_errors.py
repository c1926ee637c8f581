"""What an error tells a program, besides its message."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest

from tritonsync import Bucket, Store, errors
from tritonsync.errors import (
    LocalCacheError,
    NotInBucketError,
    RemoteOffError,
    SettingsError,
    TritonSyncError,
    UnknownWorkloadError,
)
from tritonsync.local.files import disk_errors
from tritonsync.settings import Settings
from tritonsync.store.catalog import Catalog
from tritonsync.sync.caches import LocalCaches
from tritonsync.sync.pull import pull

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TritonSyncError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_errors_survive_pickling_with_their_facts(kind: type[TritonSyncError]) -> None:
    """Compile workers send them to their parent."""
    error = kind("what happened", url="s3://b", object_name="o", path="/p", variable="V", workload="w")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == "what happened"
    facts = (again.url, again.object_name, again.path, again.variable, again.workload)
    assert facts == ("s3://b", "o", "/p", "V", "w")


def test_every_class_is_drawn_in_the_tree() -> None:
    """The module's docstring is where a reader looks for the class to catch."""
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in CLASSES)
    assert {kind.__name__ for kind in CLASSES} == set(errors.__all__)


def test_errors_name_what_they_are_about(tmp_path: Path) -> None:
    """A caller need not take messages apart."""
    with Bucket(str(tmp_path / "bucket")) as bucket:
        caches = LocalCaches.at(tmp_path / "inductor")
        with pytest.raises(UnknownWorkloadError) as unknown:
            pull(Store(bucket), caches, "nobody")
        assert (unknown.value.workload, unknown.value.url) == ("nobody", bucket.url)
        with pytest.raises(NotInBucketError) as nothing:
            Catalog(bucket).kernels("ABC")
        assert nothing.value.url == bucket.url
        with pytest.raises(RemoteOffError) as off:
            bucket.get("tritonsync.json", limit=9, timeout=0)
        assert (off.value.url, off.value.object_name) == (bucket.url, "tritonsync.json")
    with pytest.raises(SettingsError) as setting:
        Settings.from_env({"TRITONSYNC_BUDGET_S": "soon"})
    assert setting.value.variable == "TRITONSYNC_BUDGET_S"
    with pytest.raises(LocalCacheError) as disk, disk_errors("read", tmp_path / "x"):
        (tmp_path / "x").read_bytes()
    assert disk.value.path == str(tmp_path / "x")
