"""Values that belong to one rank of a distributed job: how they are told, and how bundles say whose they are.

torch's keys hold what a graph is traced from, and not the rank that traces it: the AOTAutograd key of a DTensor is that
of its spec (`_stable_hash_for_caching` of torch/distributed/tensor/_api.py, 2.13), while the code made from it has the
offsets of one shard in it; passes that bucket collectives put the rank into a graph after its FX key was taken
(`merge_all_gather_bucket` of torch/_inductor/fx_passes/bucketing.py, 2.13); and a custom pass may do anything. So the
ranks of a job look up such values under one key, and each must get its own.

A bundle of such a value names its owner twice: at the end of its variant, `<variant>-rank3of64`, so that a reader knows
it by a listing, and at the end of what it requires of the reader, `rank 3 of 64`, which older readers do not meet
either. Values of plain data-parallel programs mention none of this, and are shared between ranks.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = [
    "Rank",
    "depends_on_rank",
    "fulfilled",
    "is_variant_of_another",
    "ranked_requirement",
    "ranked_variant",
    "required_rank",
]


class Rank(NamedTuple):
    """One process of a job: the size of its world, and its rank there. A program of one process is rank 0 of 1."""

    world: int
    rank: int

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world}"


#: Stand in a pickled value as they are: names of classes, and what generated code and the text of graphs call.
_DISTRIBUTED = (
    b"torch.distributed",
    b"DTensor",
    b"DeviceMesh",
    b"c10d_functional",
    b"torch.ops.c10d.",
    b"torch.ops._dtensor.",
    b"torch.ops.fsdp.",
    b"torch.ops.bucketing.",
    b"torch.ops.symm_mem.",
    # A tensor subclass decides by itself what its operations become.
    b"SubclassCreationMeta",
)
#: Every FX value lists the parts of its key, custom passes among them (`FxGraphHashDetails` of codecache.py, 2.13).
_CUSTOM_PASS = re.compile(
    rb"custom_(?:pre_pass|post_pass|pass|backend_passes|partitioner_fn)\]?(?:\[\d+\])?: "
    rb"(?!None|\(None(?:, None)*,?\)|\[\])"
)
_VARIANT = re.compile(r".+-rank(\d+)of(\d+)", re.ASCII)
_REQUIREMENT = re.compile(r"(?:.*; )?rank (\d+) of (\d+)", re.ASCII | re.DOTALL)
#: Required by a value whose owner is not known: no process is that, so nobody is offered the value.
_NOBODY = Rank(0, 0)


def depends_on_rank(value: bytes) -> bool:
    """Whether a pickled value, or its skeleton, may hold code for one rank only. Errs on the side of yes."""
    return any(name in value for name in _DISTRIBUTED) or _CUSTOM_PASS.search(value) is not None


def ranked_variant(variant: str, owner: Rank | None) -> str:
    """Return the variant's name for a value of one rank; None: of which one is not known."""
    world, rank = owner or _NOBODY
    return f"{variant}-rank{rank}of{world}"


def is_variant_of_another(variant: str, reader: Rank | None) -> bool:
    """Whether a variant belongs to a rank, and not to this one; None: the reader's rank is not known."""
    found = _VARIANT.fullmatch(variant)
    return found is not None and (reader is None or variant != ranked_variant(variant.rpartition("-")[0], reader))


def ranked_requirement(requires: str | None, owner: Rank | None) -> str:
    """Add the owner of a value to what its bundle requires of the reader's CPU."""
    return "; ".join(filter(None, [requires, str(owner or _NOBODY)]))


def required_rank(requires: str | None) -> Rank | None:
    """Return the owner that a requirement names; None for none."""
    found = _REQUIREMENT.fullmatch(requires or "")
    # Longer numbers are no rank, and Python refuses to read the longest.
    return None if found is None or max(map(len, found.groups())) > 9 else Rank(int(found[2]), int(found[1]))


def fulfilled(cpu: str | None, reader: Rank | None) -> frozenset[str | None]:
    """Return all requirements that a reader of this CPU and rank meets; None stands for none."""
    met: set[str | None] = {None, cpu}
    return frozenset(met if reader is None else met | {ranked_requirement(each, reader) for each in met})
