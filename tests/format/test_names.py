import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.format.strategies import NAME_CHARACTERS, names, texts
from tritonsync.errors import HostileNameError
from tritonsync.format.layout import check_name, check_text, safe_key, workload_key

HOSTILE = ["", ".", "..", "a/b", "/a", "a\\b", "a\n", "\na", "a\0", " ", "é", "..\\x", "C:", "x" * 256, "\ud800", "a*"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str) -> None:
    """Whatever could leave its folder, or mean something to a shell or a file system, is no name."""
    with pytest.raises(HostileNameError):
        check_name(name)


@given(names)
@example("x" * 255)
@example("...")
def test_names_are_returned_as_they_are(name: str) -> None:
    """A name that fits passes unchanged."""
    assert check_name(name) is name


@given(st.text(max_size=300))
def test_every_text_is_a_name_or_refused(text: str) -> None:
    """What passes holds only the characters that are allowed."""
    try:
        check_name(text)
    except HostileNameError:
        return
    assert set(text) <= set(NAME_CHARACTERS)
    assert 0 < len(text) < 256


@given(texts.filter(bool))
@example("..")
@example("a/../../b")
@example("k" * 1024)
def test_every_key_has_a_safe_form(key: str) -> None:
    """A key stands in object names as itself or as its sha256."""
    safe = safe_key(key)
    assert check_name(safe) == safe
    assert safe in (key, hashlib.sha256(key.encode()).hexdigest())
    assert safe_key(safe) == safe


def test_half_surrogate_pairs_are_refused() -> None:
    """Text that no UTF-8 can hold is refused, not a UnicodeEncodeError."""
    with pytest.raises(HostileNameError):
        safe_key("\ud800")
    with pytest.raises(HostileNameError):
        check_text("a\udfff")
    assert check_text("é 🙂") == "é 🙂"


def test_workload_names_are_lower_cased() -> None:
    """Spelling a workload's name in capitals finds the same lists."""
    assert workload_key("ResNet-50") == workload_key("resnet-50") == "resnet-50"
