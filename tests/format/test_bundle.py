import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.strategies import kernels, payloads
from tritonsync.errors import FormatError, HostileNameError
from tritonsync.format.bundle import Bundle, Payload, is_variant
from tritonsync.format.kernel import Kernel, KernelFile

ONE = Kernel("A", 0, (KernelFile("a.cubin", b"1"),))


@given(st.lists(kernels, max_size=4).flatmap(lambda ks: st.tuples(st.just(ks), st.permutations(ks))), payloads)
def test_order_does_not_count(both: tuple[list[Kernel], list[Kernel]], parts: tuple[Payload, ...]) -> None:
    """A bundle is the same whatever order its kernels and payloads are given in."""
    given_order, shuffled = both
    one = Bundle("triton", "key", kernels=tuple(given_order), payloads=parts)
    assert one == Bundle("triton", "key", kernels=tuple(shuffled), payloads=parts[::-1])


def test_kernels_stand_once_and_side_by_side() -> None:
    """A repeated kernel is dropped; another content or device of the same hash stays beside it."""
    other = Kernel("A", 0, (KernelFile("a.cubin", b"2"),))
    elsewhere = Kernel("A", None, ONE.files)
    bundle = Bundle("triton", "key", kernels=(ONE, other, ONE, elsewhere))
    assert len(bundle.kernels) == 3
    assert bundle.kernels[0] == elsewhere


def test_payloads_are_found_by_name() -> None:
    """A payload is looked up by its name; a name stands once; bytes stay out of the repr."""
    bundle = Bundle("pgo", "key", payloads=(Payload("b", b"secret"), Payload("a", b"1")))
    assert bundle.payload("b") == b"secret"
    assert bundle.payload("c") is None
    assert "secret" not in repr(bundle)
    with pytest.raises(FormatError, match="twice"):
        Bundle("pgo", "key", payloads=(Payload("a", b"1"), Payload("a", b"1")))
    with pytest.raises(HostileNameError):
        Payload("a/b", b"")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "no kind"),
        ({"key": ""}, "key has 0 characters"),
        ({"key": "k" * 1025}, "key has 1025 characters"),
        ({"key": "\ud800"}, "not Unicode"),
        ({"guards": "\udc80"}, "not Unicode"),
        ({"variant": "../x"}, "variant"),
        ({"compile_seconds": math.nan}, "nan"),
        ({"compile_seconds": math.inf}, "inf"),
        ({"compile_seconds": -1.0}, "-1.0"),
    ],
)
def test_what_no_manifest_can_hold_is_refused(change: dict[str, object], message: str) -> None:
    """A writer learns at once what a reader would refuse."""
    fields: dict[str, object] = {"kind": "pgo", "key": "key", **change}
    with pytest.raises(FormatError, match=message):
        Bundle(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        ("fx_graph", "default"),
        ("fx_graph", "0123456789abcdef"),
        ("fx_graph", "autotune"),
        ("aot_autograd", "autotune"),
        ("aot_autograd", "0123456789abcdef-rank3of64"),
        ("fx_graph", "default-rank0of2"),
        ("pgo", "7777777777"),
        ("workload", "7777777777"),
        ("triton", "NVIDIA-H200"),
        ("triton", "cpython-311-x86_64-linux-gnu.so-x86_64"),
        ("triton", "part-0123456789abcdef"),
    ],
)
def test_variants_that_writers_make_are_known(kind: str, variant: str) -> None:
    """A hash, with or without a rank, a time, or the name of what a single kernel is for."""
    assert is_variant(kind, variant)


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        *[("fx_graph", name) for name in ("", "Default", "0" * 15, "0" * 17, "g" * 16, "0" * 16 + "\n", "0123456789")],
        *[("aot_autograd", name) for name in ("-rank0of2", "default-rank0", "default-rank" + "1" * 10 + "of2")],
        *[("workload", name) for name in ("0000", "00000000000", "-000000001", "autotune", "\u0660" * 10)],
        *[("triton", name) for name in ("", ".", "..", "a/b", "a b", "-a", "a.", "a\0", "x" * 256)],
        ("triton", "\u00e9"),
    ],
)
def test_variants_that_no_writer_makes_are_told(kind: str, variant: str) -> None:
    """They are not looked at."""
    assert not is_variant(kind, variant)
