"""One lookup of torch for the value of a graph: what it is offered from the bucket, and what becomes of the offer.

::

    lookup = session.look_up(kind, key)   waits for a fetch of this key that is under way
    lookup.is_for_another(data)           whether a value that lies here belongs to another rank of the job
    lookup.more()                         values of the bucket that torch has not tried, now in this host's caches
    lookup.taken(data, value)             torch uses this one; what it names is fetched ahead
    lookup.missed()                       torch uses none, and compiles
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from tritonsync.format.facts import ValueFacts, variant_of
from tritonsync.format.manifest import Manifest
from tritonsync.format.ranks import depends_on_rank
from tritonsync.format.value import facts_of_value
from tritonsync.local.inductor_cache import value_name
from tritonsync.local.owners import has_owners, is_owner, note_owner
from tritonsync.session.context import Context
from tritonsync.session.incoming import Incoming, Value
from tritonsync.session.workload import WorkloadRecord

__all__ = ["GraphLookup", "GraphLookups"]


class GraphLookups:
    """The lookups of one process.

    Args:
        context: of the session.
        incoming: fetches.
        record: told what this run used.
    """

    def __init__(self, context: Context, incoming: Incoming, record: WorkloadRecord) -> None:
        self.context, self.incoming, self.record = context, incoming, record
        # Without locks, which a fork could leave locked: each change is one assignment.
        self._offered: dict[tuple[str, str], frozenset[str]] = {}
        self._used: frozenset[tuple[str, str]] = frozenset()

    @property
    def asked(self) -> frozenset[tuple[str, str]]:
        """Kind and key of each value that torch asked for."""
        return frozenset(self._offered)

    @property
    def used(self) -> frozenset[tuple[str, str]]:
        """Kind and key of each value that torch took."""
        return self._used

    def note_used(self, kind: str, key: str) -> None:
        """Note that torch took a value."""
        self._used |= {(kind, key)}

    def offered(self, kind: str, key: str) -> frozenset[str]:
        """Return the file names of the values that torch was offered under a key, in lookups that have ended."""
        return self._offered.get((kind, key), frozenset())

    def note_offered(self, kind: str, key: str, names: Iterable[str]) -> None:
        """Note that torch was offered these values."""
        self._offered[kind, key] = self.offered(kind, key) | frozenset(names)

    def is_ranked(self, data: bytes) -> bool:
        """Whether a value of this program may hold code for one rank only."""
        return depends_on_rank(data) or self.context.host().has_custom_passes()

    def note_made(self, data: bytes) -> None:
        """Note that torch has made a value here, and put it into its folder."""
        host = self.context.host()
        rank = host.rank()
        # Alone there is nobody to tell apart from, and a program of one process takes what nobody has noted.
        if rank is not None and rank.world > 1 and self.is_ranked(data):
            note_owner(host.caches().inductor, value_name(data), rank)


@dataclasses.dataclass(eq=False)
class GraphLookup:
    """One lookup.

    Attributes:
        lookups: of the process.
        kind: `fx_graph` or `aot_autograd`.
        key: the key there.
        seen: file names of the values that torch has or was offered.
        left_out: those of them that torch does not get after all.
        is_done: whether asking again would bring nothing more.
    """

    lookups: GraphLookups
    kind: str
    key: str
    seen: set[str]
    left_out: set[str] = dataclasses.field(default_factory=set)
    is_done: bool = False

    def more(self) -> tuple[Value, ...]:
        """Bring values of this key here that torch has not tried, with their kernels and autotune results."""
        self.is_done = True  # also if what follows raises
        arrival = self.lookups.incoming.fetch(self.kind, self.key, frozenset(self.seen))
        # One that was left out here comes again where the bucket knows that it is this rank's.
        known = self.left_out & {value.name for value in arrival.values if value.manifest}
        self.left_out -= known
        new = [value for value in arrival.values if value.name in known or value.name not in self.seen]
        self.seen.update(value.name for value in new)
        self.is_done = arrival.asked or not new
        return tuple(value for value in new if value.manifest or not self.is_for_another(value.data))

    def is_for_another(self, data: bytes) -> bool:
        """Whether a value from this host's folder may be for another rank of the job, so that it must be left out."""
        host = self.lookups.context.host()
        rank = host.rank()
        inductor = host.caches().inductor
        # A program of one process reads through its values only where a job has left notes.
        if rank is None or (rank.world == 1 and not has_owners(inductor)) or not self.lookups.is_ranked(data):
            return False
        name = value_name(data)
        if is_owner(inductor, name, rank):
            return False
        self.left_out.add(name)
        return True

    def taken(self, data: bytes, value: Value | None) -> None:
        """Note that torch uses a value.

        Args:
            data: its bytes.
            value: as it came from `more`; None if torch found it in its own folder.
        """
        self._note_offered()
        lookups, counters = self.lookups, self.lookups.context.counters
        lookups.note_used(self.kind, self.key)
        manifests: list[Manifest] = (
            [value.manifest]
            if value is not None and value.manifest is not None
            else list(lookups.incoming.came_from_bucket(self.kind, self.key).values())
        )
        lookups.record.note(self.kind, self.key, *(manifest.variant for manifest in manifests))
        if not manifests:
            counters.add(local_hits=1)
            return
        counters.add(hits=1)
        graphs = facts_of_value(data).fx_graphs if self.kind == "aot_autograd" else ()
        if graphs:
            self._fetch(graphs)
        else:
            # The time of a value that names graphs is mostly theirs, and they may still have to be compiled.
            counters.add(saved_s=max(map(_seconds_saved, manifests)))

    def missed(self) -> None:
        """Note that torch uses none."""
        self._note_offered()
        self.lookups.context.counters.add(misses=1)

    def _note_offered(self) -> None:
        self.lookups.note_offered(self.kind, self.key, self.seen - self.left_out)

    def _fetch(self, graphs: Iterable[tuple[str, str]]) -> None:
        """Fetch the FX graphs that an AOTAutograd value names, all at once; torch asks for one after the other.

        Args:
            graphs: key and guards of each.
        """
        host = self.lookups.context.host()
        cpu, rank, libraries = host.cpu(), host.rank(), {"", host.extern_libs_key() or ""}
        wanted: dict[str, set[str]] = {}
        for key, guards in graphs:
            facts = [
                ValueFacts(guards=guards, extern_libs_key=library, uses_cpp=uses_cpp, is_ranked=is_ranked)
                for library in libraries
                for uses_cpp in (False, True)
                for is_ranked in (False, True)
            ]
            wanted.setdefault(key, set()).update(variant_of(each, cpu, rank)[0] for each in facts)
        self.lookups.incoming.fetch_variants("fx_graph", wanted)


def _seconds_saved(manifest: Manifest) -> float:
    """Return the compilation that a value stands for, as far as that is known; see `Counts.saved_s`."""
    return 0.0 if manifest.environment.requires is not None else manifest.compile_seconds
