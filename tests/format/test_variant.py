import re

from tests.format.conftest import Dynamic
from tritonsync.format.facts import UNKNOWN_CPU, ValueFacts, read_facts, variant_of


def test_nothing_to_tell_apart_is_default(vit_fx: bytes, vit_aot: bytes) -> None:
    """GPU values without guards are for everybody, whatever CPU made them."""
    for value in (vit_fx, vit_aot):
        assert variant_of(read_facts(value), "x86_64:avx512") == ("default", None)


def test_guards_make_variants(dynamic: dict[int, Dynamic]) -> None:
    """Values of one key with other guards are other variants."""
    found = {rows: variant_of(read_facts(value.aot), None) for rows, value in dynamic.items()}
    assert found[50][0] != found[200][0]
    assert all(re.fullmatch("[0-9a-f]{16}", variant) and requires is None for variant, requires in found.values())


def test_cpu_code_requires_its_cpu(dynamic: dict[int, Dynamic]) -> None:
    """A value with code for the CPU is another variant on another CPU, and says which it needs."""
    facts = read_facts(dynamic[50].fx)
    avx2, avx512 = variant_of(facts, "x86_64:avx2"), variant_of(facts, "x86_64:avx512")
    assert avx2[0] != avx512[0]
    assert (avx2[1], avx512[1]) == ("x86_64:avx2", "x86_64:avx512")


def test_an_unknown_cpu_is_offered_to_nobody() -> None:
    """Code for a CPU that nobody named requires a CPU that nobody has."""
    variant, requires = variant_of(ValueFacts(uses_cpp=True), None)
    assert requires == UNKNOWN_CPU
    assert variant != "default"


def test_libdevice_makes_variants_and_names_are_fixed() -> None:
    """The libdevice counts; names in buckets never change; the parts cannot run into each other."""
    assert variant_of(ValueFacts(extern_libs_key="abc"), None) == ("1456fabf2193d133", None)
    swapped = ValueFacts(guards="a", extern_libs_key="b"), ValueFacts(guards="ab")
    assert len({variant_of(facts, None) for facts in swapped}) == 2
