"""Cache folders of other libraries in a bucket: the files of a folder as one bundle, under what makes them fit.

A bundle of kind `folder` holds the files as payloads named by their own sha256, so equal files are there once, and a
list of them, which stands in the manifest:

::

    {"name":"deepgemm","facts":{"gpu":"NVIDIA H200","library":"deep-gemm 2.1.0 (wheel 5e0c...)","nvcc":"12.9"},
     "files":[{"path":"cache/kernel.fp8_gemm.8c4e.../kernel.cubin","sha256":"7186..."}]}

The facts are what has to be the same where the files are used. The key is made of them, so where one differs nothing is
found; and because they can be read, it can be said which. The content of a key grows, and its newest bundle counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping

import msgspec

from tritonsync.errors import FormatError, HostileNameError
from tritonsync.format.bundle import FOLDER, Bundle, Payload
from tritonsync.format.layout import check_key, check_name, is_name
from tritonsync.format.manifest import Manifest

__all__ = [
    "LIST",
    "MAX_BYTES",
    "MAX_FILES",
    "FolderFile",
    "FolderList",
    "bundle_of_folder",
    "check_path",
    "difference",
    "files_of_bundle",
    "is_fit",
    "key_of",
    "list_of_manifest",
]

#: The payload that holds the list.
LIST = "folder.json"
#: Of one folder. Those seen have some hundreds of files and some megabytes; what holds more is not taken.
MAX_FILES = 20_000
MAX_BYTES = 512 * 1024 * 1024
#: Of its list: more than half of what a manifest may have would be no room for the rest of it.
_MAX_LIST = 6 * 1024 * 1024
_MAX_DEPTH, _MAX_PATH, _MAX_FACTS, _MAX_FACT = 8, 512, 32, 300


@dataclasses.dataclass(frozen=True)
class FolderFile:
    """A file: its path below the folder, parts joined by slashes, and its bytes (not shown in the repr)."""

    path: str
    data: bytes = dataclasses.field(repr=False)


class FileName(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Where a file belongs, and the payload that it is: the sha256 of its content."""

    path: str
    sha256: str


class FolderList(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle says of the folder.

    Attributes:
        name: of the preset, or what the user calls it.
        facts: what has to be the same where the files are used; name to text.
        files: sorted by path.
    """

    name: str
    facts: dict[str, str]
    files: tuple[FileName, ...]


def is_fit(path: str) -> bool:
    """Whether a file at this path below its folder can travel."""
    parts = path.split("/")
    return len(path) <= _MAX_PATH and len(parts) <= _MAX_DEPTH and all(map(is_name, parts))


def check_path(path: str) -> str:
    """Return the path of a file below its folder if it is one.

    Raises:
        HostileNameError: it leads out of the folder, is absolute, too long or too deep, or no name of a file.
    """
    if not is_fit(path):
        raise HostileNameError(
            f"{path[:80]!r} is not 1 to {_MAX_DEPTH} names of [A-Za-z0-9_.-], of {_MAX_PATH} characters in all"
        )
    return path


def key_of(name: str, facts: Mapping[str, str]) -> str:
    """Return the key of a folder: its name, and 32 hex digits of sha256 over the facts.

    Raises:
        FormatError: no bundle can have such a name or such facts.
    """
    check_name(name, "name of a folder")
    if len(facts) > _MAX_FACTS or not all(is_name(fact) and _is_line(text) for fact, text in facts.items()):
        raise FormatError(f"folder {name}: facts are at most {_MAX_FACTS} names with lines of {_MAX_FACT} characters")
    text = json.dumps(dict(facts), sort_keys=True, separators=(",", ":"))
    return check_name(f"{name}.{hashlib.sha256(text.encode()).hexdigest()[:32]}", "key of a folder")


def _is_line(text: str) -> bool:
    return len(text) <= _MAX_FACT and text.isprintable()


def bundle_of_folder(name: str, facts: Mapping[str, str], files: Iterable[FolderFile]) -> Bundle:
    """Make the bundle of a folder.

    Raises:
        FormatError: a reader would refuse it.
    """
    contents = {file.path: Payload(hashlib.sha256(file.data).hexdigest(), file.data) for file in files}
    names = tuple(FileName(path=path, sha256=contents[path].name) for path in sorted(contents))
    listed = FolderList(name=name, facts=dict(sorted(facts.items())), files=names)
    _check(listed)
    if sum(payload.size for payload in contents.values()) > MAX_BYTES or len(_encode(listed)) > _MAX_LIST:
        raise FormatError(f"folder {name}: more than {MAX_BYTES} bytes, or {_MAX_LIST} of names")
    payloads = {payload.name: payload for payload in contents.values()}
    return Bundle(
        kind=FOLDER,
        key=check_key(key_of(name, facts)),
        payloads=(Payload(LIST, _encode(listed)), *payloads.values()),
    )


def list_of_manifest(manifest: Manifest) -> FolderList:
    """Read the list of a folder's bundle, which stands in its manifest.

    Raises:
        FormatError: it is not there, is no such list, or is not that of the manifest's key and payloads.
        HostileNameError: a file in it could not lie in a folder.
    """
    text = (manifest.inline or {}).get(LIST, "")
    try:
        listed = msgspec.json.decode(text, type=FolderList)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise FormatError(f"folder {manifest.key}: {LIST} is not a list of files: {str(exc)[:200]}") from exc
    _check(listed)
    if manifest.key != key_of(listed.name, listed.facts):
        raise FormatError(f"folder {manifest.key}: its facts are those of another key")
    if _encode(listed) != text.encode():
        raise FormatError(f"folder {manifest.key}: {LIST} is not written as it would be here")
    sizes = {payload.name: payload.size for payload in manifest.payloads if payload.name != LIST}
    if sizes.keys() != {file.sha256 for file in listed.files}:
        raise FormatError(f"folder {manifest.key}: its payloads are not the files of its list")
    if any(payload.name != payload.sha256 for payload in manifest.payloads if payload.name != LIST):
        raise FormatError(f"folder {manifest.key}: a payload does not have the sha256 that it is named by")
    if sum(sizes[file.sha256] for file in listed.files) > MAX_BYTES:
        raise FormatError(f"folder {manifest.key}: more than {MAX_BYTES} bytes")
    return listed


def files_of_bundle(bundle: Bundle, listed: FolderList) -> tuple[FolderFile, ...]:
    """Return the files of a bundle that was checked against its manifest."""
    contents = {payload.name: payload.data for payload in bundle.payloads}
    return tuple(FolderFile(file.path, contents[file.sha256]) for file in listed.files)


def difference(there: Mapping[str, str], here: Mapping[str, str]) -> tuple[str, ...]:
    """Return which facts differ, each as `driver 550.54 -> 570.86`: what the bucket has, and what this host has."""
    names = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    return tuple(f"{name} {there.get(name, 'not stated')} -> {here.get(name, 'not stated')}" for name in names)


def _check(listed: FolderList) -> None:
    key_of(listed.name, listed.facts)
    paths = [check_path(file.path) for file in listed.files]
    if not 1 <= len(paths) <= MAX_FILES:
        raise FormatError(f"folder {listed.name}: {len(paths)} files; 1 to {MAX_FILES} are allowed")
    if any(after <= before for before, after in itertools.pairwise(paths)):
        raise FormatError(f"folder {listed.name}: a file is listed twice, or not in order")
    # Where names do not differ by case, two would be one file; and nothing is a file and a folder.
    folded = {path.lower() for path in paths}
    folders = {parent for path in folded for parent in _parents(path)}
    spelled = {parent for path in paths for parent in _parents(path)}
    if len(folded) < len(paths) or len(folders) < len(spelled) or folded & folders:
        raise FormatError(f"folder {listed.name}: two of its files or folders would be one")


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def _encode(listed: FolderList) -> bytes:
    # json, not msgspec: what it writes is fixed by the standard library.
    return json.dumps(msgspec.to_builtins(listed), sort_keys=True, separators=(",", ":")).encode()
