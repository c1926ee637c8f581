"""Cache folders of other libraries, pushed and pulled: what `tritonsync push --bundle` and `pull --bundle` do."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

from tritonsync.errors import FormatError, SettingsError
from tritonsync.format.bundle import FOLDER
from tritonsync.format.folder import (
    LIST,
    FolderFile,
    FolderList,
    bundle_of_folder,
    difference,
    files_of_bundle,
    key_of,
    list_of_manifest,
)
from tritonsync.format.layout import BundlePlace, is_name
from tritonsync.format.manifest import Manifest
from tritonsync.local.folder_cache import ANYTHING, Place, Snapshot, absent, collect, place, snapshot, sweep, units
from tritonsync.local.presets import PRESETS, facts_of
from tritonsync.remote.waiting import Deadline
from tritonsync.store import Loaded, Store
from tritonsync.store.catalog import places_in

__all__ = ["Folder", "PulledFolder", "PushedFolder", "own_folder", "preset_folder", "pull_folder", "push_folder"]

log = logging.getLogger(__name__)

#: Bundles of other facts that are looked at to say what differs.
MAX_NEAR = 16


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of this host that can be published, or fetched.

    Attributes:
        name: of the preset, or what the user calls it.
        place: where it is, and what of it travels.
        facts: what has to be the same where its files are used.
        is_agreed: see `Preset.is_agreed`.
    """

    name: str
    place: Place
    facts: Mapping[str, str]
    is_agreed: bool = False

    @property
    def key(self) -> str:
        """Of its bundles."""
        return key_of(self.name, self.facts)


@dataclasses.dataclass(frozen=True)
class PushedFolder:
    """What a push did.

    Attributes:
        name: of the folder.
        key: of its bundles.
        folder: where it is.
        files: that are in the bucket now.
        files_new: of those, how many were not there before.
        created: whether a bundle was written; never in a dry run, which says what would be.
    """

    name: str
    key: str
    folder: str
    files: int
    files_new: int
    created: bool


@dataclasses.dataclass(frozen=True)
class PulledFolder:
    """What a pull did.

    Attributes:
        name: of the folder.
        key: of its bundles.
        folder: where it is.
        files: in the bucket for this host; 0 for a miss.
        written: of those, how many were written, or would be.
        nearest: of a miss, how the bundle that fits best differs; empty where there is none.
    """

    name: str
    key: str
    folder: str
    files: int
    written: int
    nearest: tuple[str, ...] = ()


def preset_folder(name: str, environ: Mapping[str, str]) -> Folder:
    """Return the folder of a preset on this host.

    Args:
        name: of the preset.
        environ: the variables of the process that uses the folder.

    Raises:
        SettingsError: there is no such preset.
        LocalCacheError: its library is not installed, or not from a wheel.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise SettingsError(f"{name!r} is no bundle that is known by name; these are: {', '.join(sorted(PRESETS))}")
    facts = facts_of(preset, environ)
    return Folder(name, Place(preset.folder(environ), preset.parts, preset.variable), facts, preset.is_agreed)


def own_folder(name: str, path: Path, key: str) -> Folder:
    """Return a folder that only its user knows: whatever is in it, for whoever names the same key.

    Raises:
        SettingsError: it cannot be called so.
    """
    if not is_name(name) or len(name) > 100 or not key:
        raise SettingsError(f"a folder of your own needs a name of [A-Za-z0-9_.-], not {name[:80]!r}, and a key")
    return Folder(f"dir-{name}", Place(path.expanduser().absolute(), ANYTHING, "--bundle-dir"), {"key": key})


def push_folder(
    store: Store,
    folder: Folder,
    *,
    found: Snapshot | None = None,
    dry_run: bool = False,
    timeout: float | None = None,
) -> PushedFolder:
    """Publish what is in a folder, together with what the bucket has for the same facts, which wins.

    Args:
        store: where to.
        folder: the folder.
        found: what is in it; None: it is looked at.
        dry_run: write nothing.
        timeout: seconds for all of it.

    Raises:
        LocalCacheError: the folder cannot be read, or others may write into it.
        FormatError: it does not fit into a bundle.
        RemoteError: the bucket could not be asked, or refused the write.
    """
    deadline = Deadline(timeout)
    here = units(folder.place, collect(folder.place, snapshot(folder.place) if found is None else found))
    there, is_damaged = _published(store, folder, deadline)
    # Files of two builds never mix: what appears at one moment is taken whole, and where that is all of the folder, it
    # is the one that holds more.
    new = {unit for unit in here if unit not in there or (not unit and len(here[unit]) > len(there[unit]))}
    united = {**there, **{unit: here[unit] for unit in new}}
    files = [file for group in united.values() for file in group]
    created = False
    if new and not dry_run:
        bundle = bundle_of_folder(folder.name, folder.facts, files)
        created = store.publish_newest(bundle, reread=is_damaged, inline=(LIST,), timeout=deadline.left).created
    return PushedFolder(
        name=folder.name,
        key=folder.key,
        folder=str(folder.place.path),
        files=len(files),
        files_new=len(files) - sum(map(len, there.values())),
        created=created,
    )


def _published(store: Store, folder: Folder, deadline: Deadline) -> tuple[Mapping[str, tuple[FolderFile, ...]], bool]:
    """Return the units that the newest bundle holds, and whether one that lies there is damaged."""
    found = store.own().load(FOLDER, folder.key, newest=1, timeout=deadline.left)
    for loaded in found.bundles:
        listed = _list_in(loaded.manifest)
        if listed is not None:
            return units(folder.place, files_of_bundle(loaded.bundle, listed)), False
    return {}, bool(found.damaged)


def pull_folder(store: Store, folder: Folder, *, dry_run: bool = False, timeout: float | None = None) -> PulledFolder:
    """Fetch what the bucket has for this host into the folder; what is there stays as it is.

    Args:
        store: where from.
        folder: where to.
        dry_run: fetch and write nothing; what a bundle lists is taken for what it holds.
        timeout: seconds for all of it.

    Raises:
        LocalCacheError: the folder cannot be written, or others may write into it.
        RemoteError: the bucket could not be asked.
    """
    deadline = Deadline(timeout)
    if not dry_run:
        sweep(folder.place)

    def to_write(listed: FolderList) -> int:
        return len(absent(folder.place, [file.path for file in listed.files]))

    def is_present(manifest: Manifest) -> bool:
        listed = _list_in(manifest)
        return listed is not None and (dry_run or not to_write(listed))

    for newest in (1, 8):  # newer ones may be of no use
        found = store.load(FOLDER, folder.key, newest=newest, have=is_present, timeout=deadline.left)
        for loaded in found.bundles:
            pulled = _restored(folder, loaded)
            if pulled is not None:
                return pulled
        for manifest in found.present:
            listed = list_of_manifest(manifest)
            return _result(folder, len(listed.files), to_write(listed))
        if not found.bundles and not found.damaged:
            break
    return _result(folder, 0, 0, _nearest(store, folder, deadline))


def _restored(folder: Folder, loaded: Loaded) -> PulledFolder | None:
    """Write a bundle into the folder; one that keeps the format and makes no sense there is a miss."""
    listed = _list_in(loaded.manifest)
    if listed is None:
        return None
    try:
        placed = place(folder.place, files_of_bundle(loaded.bundle, listed))
    except FormatError as exc:
        log.warning("%s is left out: %s", loaded.place.prefix, exc)
        return None
    return _result(folder, len(listed.files), placed.written)


def _result(folder: Folder, files: int, written: int, nearest: tuple[str, ...] = ()) -> PulledFolder:
    return PulledFolder(folder.name, folder.key, str(folder.place.path), files, written, nearest)


def _list_in(manifest: Manifest) -> FolderList | None:
    try:
        return list_of_manifest(manifest)
    except FormatError as exc:
        log.warning("%s is left out: %s", manifest.place.manifest, exc)
        return None


def _nearest(store: Store, folder: Folder, deadline: Deadline) -> tuple[str, ...]:
    """Return what differs in the published folder of this name that differs least, among the newest of them."""
    newest: dict[str, BundlePlace] = {}
    for each in places_in(store.bucket.list(f"bundles/{FOLDER}/", timeout=deadline.left), (FOLDER,)):
        if each.key.rpartition(".")[0] == folder.name and each.key != folder.key and len(newest) < MAX_NEAR:
            newest.setdefault(each.key, each)
    found = []
    for each in newest.values():
        manifest = store.manifest(each, timeout=deadline.left)
        listed = None if manifest is None else _list_in(manifest)
        if listed is not None:
            found.append(difference(listed.facts, folder.facts))
    return min(found, key=len, default=())
