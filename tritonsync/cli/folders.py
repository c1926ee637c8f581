"""`push --bundle` and `pull --bundle`: cache folders of other libraries, by name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritonsync.cli.options import Connection
from tritonsync.cli.output import Output, amount, complain, size

if TYPE_CHECKING:
    from tritonsync.sync.folders import Folder, PulledFolder, PushedFolder

__all__ = ["BundleDir", "BundleKey", "Bundles", "chosen_folders", "pull_folders", "push_folders"]

Bundles = Annotated[
    list[str] | None,
    typer.Option(
        "--bundle",
        metavar="NAME[,NAME]",
        help="Instead of a workload: the cache folders of other libraries, by name: deepgemm, tilelang, "
        "triton-autotune, helion, flashinfer-autotune, cuda-driver.",
        show_default=False,
    ),
]
BundleDir = Annotated[
    list[str] | None,
    typer.Option(
        "--bundle-dir",
        metavar="NAME=DIR",
        help="Instead of a workload: any other folder; --bundle-key says where its files fit.",
        show_default=False,
    ),
]
BundleKey = Annotated[
    str | None,
    typer.Option(
        "--bundle-key", metavar="KEY", help="What --bundle-dir is good for, in words of your own.", show_default=False
    ),
]


def chosen_folders(
    names: Sequence[str] | None, folders: Sequence[str] | None, key: str | None, workload: str | None
) -> list[Folder]:
    """Return the folders that the options name; none where they name none.

    Raises:
        SettingsError: one cannot be called so.
        LocalCacheError: a library is not installed here.
    """
    if not names and not folders:
        if key is not None:
            raise typer.BadParameter("--bundle-key is for --bundle-dir NAME=DIR")
        return []
    if workload is not None:
        raise typer.BadParameter("--workload and --bundle are two different things; run the command twice")
    if bool(folders) != (key is not None):
        raise typer.BadParameter("--bundle-dir NAME=DIR needs --bundle-key KEY, and nothing else does")
    from tritonsync.settings import environment
    from tritonsync.sync.folders import own_folder, preset_folder

    wanted = dict.fromkeys(name.strip() for each in names or () for name in each.split(",") if name.strip())
    if names and not wanted:
        raise typer.BadParameter("--bundle names nothing: is a variable empty?")
    found = [preset_folder(name, environment()) for name in wanted]
    for each in folders or ():
        name, equals, folder = each.partition("=")
        if not equals or not folder:
            raise typer.BadParameter(f"--bundle-dir {each!r} is not NAME=DIR")
        found.append(own_folder(name, Path(folder), key or ""))
    return found


def push_folders(connection: Connection, output: Output, folders: Sequence[Folder], *, dry_run: bool) -> None:
    """Publish the folders, or only say what would be.

    Raises:
        TritonSyncError: one cannot be read, or the bucket does not take it.
    """
    from tritonsync.errors import LocalCacheError
    from tritonsync.local.folder_cache import ANYTHING, left_out, snapshot
    from tritonsync.sync.environment import host_environment
    from tritonsync.sync.folders import push_folder

    found = [(folder, snapshot(folder.place)) for folder in folders]
    for folder, files in found:
        if not files:
            raise LocalCacheError(
                f"nothing to push: {folder.place.path} holds nothing of {folder.name}; run the program first, or name "
                f"its folder with {folder.place.variable}"
            )
    store = connection.store(host_environment())
    started = time.perf_counter()
    if dry_run:
        connection.ask_to_read(new=True)
    else:
        connection.ask_to_write()
    pushed = [push_folder(store, folder, found=files, dry_run=dry_run) for folder, files in found]
    lines = [
        f"{'would push' if dry_run else 'pushed'} {each.name} to {connection.bucket.url}: "
        f"{amount(each.files, 'file')} ({each.files_new} new) from {each.folder}"
        for each in pushed
    ]
    moved = {"bytes_uploaded": connection.bucket.stats.bytes_up}
    _say(connection, output, pushed, lines, moved, started, dry_run=dry_run)
    for folder in folders:
        names = left_out(folder.place) if folder.place.parts == ANYTHING else ()
        if names:
            complain(
                f"warning: {amount(len(names), 'file')} of {folder.place.path} left out, such as {names[0]}: links, "
                "names of other characters than A-Za-z0-9_.- and what lies 8 folders deep do not travel"
            )
    if not any(each.files for each in pushed):
        raise LocalCacheError("nothing was pushed: what is in the folder is damaged, or cannot travel")


def pull_folders(
    connection: Connection, output: Output, folders: Sequence[Folder], *, strict: bool, dry_run: bool
) -> None:
    """Fetch the folders, or only say what would be; exit with 1 where there is nothing for any of them.

    With `strict`, where there is nothing for one of them.

    Raises:
        TritonSyncError: one cannot be written, or the bucket could not be asked.
    """
    from tritonsync.sync.folders import pull_folder

    store = connection.store()
    started = time.perf_counter()
    connection.ask_to_read()
    pulled = [pull_folder(store, folder, dry_run=dry_run) for folder in folders]
    lines = [
        f"{'would pull' if dry_run else 'pulled'} {each.name} from {connection.bucket.url}: "
        f"{amount(each.files, 'file')} ({each.written} {'to write' if dry_run else 'written'}, "
        f"{each.files - each.written} present) into {each.folder}"
        for each in pulled
        if each.files
    ]
    moved = {"bytes_downloaded": connection.bucket.stats.bytes_down}
    _say(connection, output, pulled, lines, moved, started, dry_run=dry_run)
    for each in pulled:
        if not each.files:
            nearest = f"; nearest: {', '.join(each.nearest)}" if each.nearest else ""
            complain(f"warning: the bucket holds nothing of {each.name} that fits this host{nearest}")
    if not (all if strict else any)(each.files for each in pulled):
        raise typer.Exit(1)


def _say(
    connection: Connection,
    output: Output,
    done: Sequence[PushedFolder] | Sequence[PulledFolder],
    lines: Sequence[str],
    moved: Mapping[str, int],
    started: float,
    *,
    dry_run: bool,
) -> None:
    """Print what was done with each folder, and what it took: `moved` names the bytes that went over the network."""
    requests = connection.bucket.stats.requests
    output.result(
        {
            "url": connection.bucket.url,
            "bundles": [dataclasses.asdict(each) for each in done],
            **moved,
            "dry_run": dry_run,
            "requests": requests,
            "seconds": round(time.perf_counter() - started, 3),
        },
        "\n".join([*lines, f"{size(sum(moved.values()))}, {amount(requests, 'request')}"]),
    )
