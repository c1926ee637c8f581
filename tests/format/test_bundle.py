import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.strategies import kernels, payloads
from tritonsync.errors import FormatError, HostileNameError
from tritonsync.format.bundle import Bundle, Payload
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
