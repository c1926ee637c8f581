"""`tritonsync why`: what keeps this host from being served, and why something was compiled."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritonsync import times
from tritonsync.cli.options import Connection, InductorDir, Json, StorageOptions, Timeout, TritonDir, Url
from tritonsync.cli.output import Output, amount, complain
from tritonsync.errors import LocalCacheError, NotInBucketError

if TYPE_CHECKING:
    from tritonsync.settings import Settings
    from tritonsync.sync.here import Here
    from tritonsync.watch.run import Watched

__all__ = ["why", "why_compiled"]

What = Annotated[
    str | None,
    typer.Argument(
        metavar="WORKLOAD|KEY",
        help="A workload, or a key or the beginning of one; nothing: the last `tritonsync run` of this host, else the "
        "workload in force.",
        show_default=False,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Show what this report of `run` says.", show_default=False),
]


def why(
    context: typer.Context,
    what: What = None,
    report: Report = None,
    url: Url = None,
    inductor_dir: InductorDir = None,
    triton_dir: TritonDir = None,
    storage_options: StorageOptions = None,
    timeout: Timeout = times.COMMAND_S,
    as_json: Json = False,
) -> None:
    """Say why something was compiled, or would be.

    Of a workload: which of its bundles this host would be served, and what keeps the others away: versions, GPU, CPU,
    rank, signatures, damage, expiry. Of a key that the bucket lacks and this host has made: the nearest bundle, and
    what differs.
    """
    from tritonsync.settings import Settings
    from tritonsync.watch.last_run import read_report

    output = Output(as_json)
    settings = Settings.from_env(url=url, storage_options=storage_options)
    if what is not None and report is not None:
        raise typer.BadParameter("give a workload or key, or --report, not both")
    told = read_report(report) if report is not None else _last_report(settings, inductor_dir, is_needed=what is None)
    if what is None and told is not None:
        _show_report(output, told)
        return
    what = what or settings.workload
    if what is None:
        raise typer.BadParameter(
            "nothing to explain: no `tritonsync run` has left a report here; name a workload or a key"
        )
    connection = Connection(context, url, storage_options, timeout)
    connection.ask_to_read()
    _show(output, connection, what, told, inductor_dir, triton_dir)


def _last_report(settings: Settings, inductor_dir: Path | None, *, is_needed: bool) -> dict[str, Any] | None:
    """Return what the last run said; where it is only asked in passing, one that cannot be read is a note."""
    from tritonsync.local.inductor_cache import default_inductor_dir
    from tritonsync.watch.last_run import last_report

    given = settings.inductor_dir if inductor_dir is None else str(inductor_dir.expanduser())
    try:
        return last_report(default_inductor_dir(given))
    except LocalCacheError as exc:
        if is_needed:
            raise
        complain(f"the last run is not looked at: {exc}")
        return None


def _show(
    output: Output,
    connection: Connection,
    what: str,
    told: dict[str, Any] | None,
    inductor_dir: Path | None,
    triton_dir: Path | None,
) -> None:
    """Say what the bucket holds of a workload or key; of a key, also what the last run said, or what is nearest."""
    from tritonsync.cli.explain import cause_lines, stored_lines, wrapped
    from tritonsync.sync.here import host_here
    from tritonsync.sync.stored import Holdings

    store, url, here = connection.store(), connection.bucket.url, host_here(connection.settings)
    holdings = Holdings(store, what)
    places = () if holdings.list is not None else holdings.catalog.find(what)
    stored = holdings.of_workload(here) if holdings.list is not None else holdings.stored(places, here)
    states = [dataclasses.asdict(state) for state in stored]
    whys = [] if told is None or holdings.list is not None else _said_of(told, what)
    said = f"{_run_of(told)}, said:" if told is not None else ""
    if holdings.list is None and not places and not whys:
        whys = _nearest(connection, what, here, inductor_dir, triton_dir)
        said = f"not in {url}, made on this host:"
    lines = [wrapped(said, more="  "), *(line for each in whys for line in cause_lines(each))] if whys else []
    served = sum(not state["obstacles"] for state in states)
    if states:
        name = f"workload {what}" if holdings.list is not None else f"{places[0].kind}/{places[0].key}"
        head = f"{name} in {url}: {served} of {amount(len(states), 'bundle')} would be served here"
        lines = [
            wrapped(head, more="  "),
            wrapped(f"this host: {here.summary()}", more="  "),
            *stored_lines(states),
            *([""] if lines else []),
            *lines,
        ]
    workload = what if holdings.list is not None else connection.settings.workload
    document = {"url": url, "here": _here(here), "workload": workload, "served": served, "bundles": states}
    output.result({**document, "why": whys}, "\n".join(lines))


def _run_of(report: dict[str, Any]) -> str:
    return f"{report.get('command', 'a run')}, {report.get('started', '')}"


def _said_of(told: dict[str, Any], what: str) -> list[dict[str, Any]]:
    """Return what the last run said of a key, or of the beginning of one."""
    return [why for why in told["why"] if why["key"] is not None and why["key"].startswith(what)]


def _nearest(
    connection: Connection, what: str, here: Here, inductor_dir: Path | None, triton_dir: Path | None
) -> list[dict[str, Any]]:
    """Say what differs of a key that the bucket lacks, and the caches of this host hold.

    Raises:
        NotInBucketError: they do not.
    """
    from tritonsync.cli.options import local_caches
    from tritonsync.sync.why import compiled_here, explain

    caches, kernels = local_caches(connection.settings, inductor_dir, triton_dir)
    compiled = compiled_here(what, here, caches.inductor, kernels)
    if compiled is None:
        url = connection.bucket.url
        raise NotInBucketError(
            f"neither {url} nor the caches of this host hold anything called {what!r}; `tritonsync ls` lists what the "
            "bucket holds",
            url=url,
        )
    workload = connection.settings.workload
    found = explain(connection.store(), workload, [compiled], before=None, whole=True)
    return [dataclasses.asdict(each) for each in found]


def _here(here: Here) -> dict[str, Any]:
    import msgspec

    rank = None if here.rank is None else {"world": here.rank.world, "rank": here.rank.rank}
    return {**msgspec.to_builtins(here.environment), "cpu": here.cpu, "rank": rank}


def _show_report(output: Output, report: dict[str, Any]) -> None:
    from tritonsync.cli.explain import cause_lines, wrapped

    whys = [each for each in report["why"] if each["state"] != "of a graph"]
    rest = len(report["why"]) - len(whys)
    graphs = sum(each["kind"] == "fx_graph" for each in whys)
    engine = report.get("engine") or {}
    counts = ((graphs, "graph", ""), (len(whys) - graphs, "kernel", ""), (rest, "kernel", " of graphs"))
    counted = [f"{amount(count, noun)}{of}" for count, noun, of in counts if count]
    lines = [
        wrapped(_run_of(report), more="  "),
        wrapped(f"compiled: {', '.join(counted) or 'nothing'}", more="  "),
        wrapped(
            f"bucket {report.get('url')} (engine: {engine.get('name', 'none')}), workload {report.get('workload')}",
            more="  ",
        ),
    ]
    for each in whys:
        lines += ["", *cause_lines(each)]
    output.result(report, "\n".join(lines))


def why_compiled(watched: Watched, settings: Settings, workload: str | None) -> list[dict[str, Any]]:
    """Return, for the report of a run, why each graph and kernel was compiled; never fails."""
    from tritonsync.errors import TritonSyncError
    from tritonsync.remote.bucket import Bucket
    from tritonsync.remote.waiting import RetryPolicy
    from tritonsync.store.reader import Reader
    from tritonsync.store.trust import trust_of
    from tritonsync.sync.here import host_here
    from tritonsync.sync.why import Compiled, Why, compiled_in_run, explain

    if not watched.compiled:
        return []
    compiled: list[Compiled] = []
    try:
        host = host_here(settings)
        compiled += [compiled_in_run(event, facts, host) for event, facts in watched.compiled]
        with Bucket(
            settings.url or "",
            storage_options=settings.storage_options,
            patience=RetryPolicy.of_command(times.DOCTOR_S),
            engine=settings.engine,
        ) as bucket:
            reader = Reader(bucket, trust=trust_of(settings))
            whys = explain(reader, workload, compiled, before=watched.started, own=watched.published)
    except Exception as exc:  # noqa: BLE001 - it comes after a run that may have taken days, and is not what it was for
        said = exc if isinstance(exc, TritonSyncError) else f"{type(exc).__name__}: {exc}"
        reason = f"the bucket could not be asked why: {said}"
        whys = [Why(each.kind, each.key, each.name, "not asked", reason) for each in compiled]
        kinds = {"graph": "fx_graph", "kernel": "triton"}
        whys = whys or [
            Why(kinds[event["event"]], None, str(event.get("name")), "not asked", reason)
            for event, _facts in watched.compiled
        ]
    return [dataclasses.asdict(each) for each in whys]
