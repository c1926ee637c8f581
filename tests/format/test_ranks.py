"""Which values may belong to one rank of a job, and how bundles say whose they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bundles import make_value
from tests.format.conftest import Dynamic
from tritonsync.format.facts import read_facts, variant_of
from tritonsync.format.layout import check_name
from tritonsync.format.ranks import (
    Rank,
    depends_on_rank,
    fulfilled,
    is_variant_of_another,
    ranked_requirement,
    ranked_variant,
    required_rank,
)

FIRST, SECOND = Rank(2, 0), Rank(2, 1)
ranks = st.builds(Rank, st.integers(1, 10**6), st.integers(0, 10**6))


def test_values_of_plain_programs_belong_to_all(vit_fx: bytes, vit_aot: bytes, dynamic: dict[int, Dynamic]) -> None:
    """Real values of programs that know no ranks are shared by the ranks of a job."""
    for value in (vit_fx, vit_aot, dynamic[50].fx, dynamic[50].aot, make_value("def call(args): return args")):
        assert not depends_on_rank(value)
        facts = read_facts(value)
        assert variant_of(facts, "c", FIRST) == variant_of(facts, "c", SECOND) == variant_of(facts, "c")


@pytest.mark.parametrize(
    "text",
    [
        "torch.distributed.tensor._dtensor_spec",
        "DTensor",
        "buf1 = torch.ops._c10d_functional.all_gather_into_tensor.default(buf0, 2, '0')",
        "torch.ops.bucketing._pre_bucket_all_gather.default(arg0_1, 2, '0', torch.float32, [], 1)",
        "torch.ops.fsdp.all_gather_copy_in.default(arg0_1)",
        "torch.ops.symm_mem.one_shot_all_reduce.default(arg0_1, 'sum', '0')",
        "SubclassCreationMeta",
        "[abc] post_grad_custom_pre_pass: b'the hash of a pass'",
        "[abc] post_grad_custom_post_pass[0]: b'the hash of a pass'",
        "[abc] custom_backend_passes: (None, b'the hash of a pass')",
        "[abc] inductor_config[_post_fusion_custom_pass]: <function>",
        "[abc] _custom_partitioner_fn: b'the hash of a function'",
    ],
)
def test_what_a_rank_can_be_seen_in(text: str) -> None:
    """Tensor subclasses, meshes, collectives and custom passes make a value one rank's, wherever they stand."""
    for value in (make_value(text), make_value(note=text)):
        facts = read_facts(value)
        assert facts.is_ranked
        found = [variant_of(facts, None, rank) for rank in (FIRST, SECOND, Rank(4, 0), None)]
        assert len({variant for variant, _ in found}) == len({requires for _, requires in found}) == 4


@pytest.mark.parametrize(
    "text",
    [
        "empty_strided_p2p = torch._C._distributed_c10d._SymmetricMemory.empty_strided_p2p",
        "[abc] inductor_config[aten_distributed_optimizations.collective_bucketing]: None",
        "[abc] post_grad_custom_pre_pass: None",
        "[abc] custom_backend_passes: (None, None, None)",
        "[abc] inductor_config[_save_config_ignore]: ['joint_custom_pre_pass', 'joint_custom_post_pass']",
        "[abc] _fuse_ddp_communication_passes[0]: fuse_ddp_with_concat_op",
    ],
)
def test_what_stands_in_every_value_is_no_rank(text: str) -> None:
    """torch names its distributed parts in the header and the key of any graph."""
    assert not depends_on_rank(make_value(text))


@given(ranks, ranks, st.sampled_from(["default", "0123456789abcdef"]), st.sampled_from([None, "x86_64:avx512 vnni"]))
def test_only_its_owner_meets_a_requirement(owner: Rank, reader: Rank, variant: str, cpu: str | None) -> None:
    """A bundle is for the same rank of an equally large world, on the CPU that it asks for."""
    name, requires = ranked_variant(variant, owner), ranked_requirement(cpu, owner)
    check_name(name, "variant")
    assert is_variant_of_another(name, reader) == (owner != reader)
    assert is_variant_of_another(name, None)
    assert not is_variant_of_another(variant, reader)
    assert (requires in fulfilled(cpu, reader)) == (owner == reader)
    assert requires not in fulfilled(cpu, None)
    assert (requires in fulfilled("another", owner)) == (cpu is None)
    assert required_rank(requires) == owner
    assert required_rank(cpu) is None


def test_what_nobody_owns_is_offered_to_nobody() -> None:
    """A ranked value of an unknown maker has an owner that does not exist, and a hostile number is no rank."""
    name, requires = variant_of(read_facts(make_value("DTensor")), None, None)
    for reader in (Rank(1, 0), FIRST, None):
        assert is_variant_of_another(name, reader)
        assert requires not in fulfilled(None, reader)
    assert required_rank(f"rank {'9' * 5000} of 2") is None
