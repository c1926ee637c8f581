"""Settings that protect: set and empty is an error, never a quiet "trust everything"."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tritonsync.errors import SettingsError
from tritonsync.plugins import autoload
from tritonsync.session import session
from tritonsync.settings import Settings

KEYS = "TRITONSYNC_TRUSTED_KEYS"


@pytest.mark.parametrize("value", ["", " ", "\t\n", ":", "::", " : ", "a.pem:", ":a.pem", "a.pem::b.pem", "a.pem: "])
def test_trusted_keys_that_name_nothing_are_an_error(value: str) -> None:
    """As `$A:$B` gives them, with one of the two unset."""
    with pytest.raises(SettingsError, match=KEYS) as caught:
        Settings.from_env({KEYS: value.replace(":", os.pathsep)})
    assert caught.value.variable == KEYS


@pytest.mark.parametrize("variable", ["TRITONSYNC_SIGNING_KEY", "TRITONSYNC_NAMESPACE"])
@pytest.mark.parametrize("value", ["", "  ", "\n"])
def test_a_key_or_namespace_that_is_blank_is_an_error(variable: str, value: str) -> None:
    """What was to be signed must not be published unsigned."""
    with pytest.raises(SettingsError, match=variable):
        Settings.from_env({variable: value})


def test_unset_is_unset() -> None:
    """Without the variables nothing is signed and everything trusted, and other empty variables count as unset."""
    settings = Settings.from_env({"TRITONSYNC_URL": "", "TRITONSYNC_MODE": ""})
    assert (settings.signing_key, settings.trusted_keys, settings.namespace) == (None, (), "")
    assert (settings.url, settings.mode) == (None, "read-write")


def test_several_keys_are_taken_as_they_stand() -> None:
    """In order, and with the blanks that a path may hold."""
    settings = Settings.from_env({KEYS: os.pathsep.join(("/a.pem", "/my keys/b.pem")), "TRITONSYNC_NAMESPACE": "prod"})
    assert settings.trusted_keys == ("/a.pem", "/my keys/b.pem")
    assert settings.namespace == "prod"


def test_an_argument_wins_over_a_variable_that_cannot_be_understood() -> None:
    """As for every other setting."""
    assert Settings.from_env({KEYS: ":"}, trusted_keys=("/a.pem",)).trusted_keys == ("/a.pem",)


@pytest.mark.parametrize(
    ("variable", "value"),
    [(KEYS, os.pathsep), (KEYS, ""), ("TRITONSYNC_SIGNING_KEY", " "), ("TRITONSYNC_NAMESPACE", "")],
)
def test_the_plugin_stays_off_where_a_key_names_nothing(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so in one line, asks the bucket for nothing and hooks nothing; `import torch` goes on."""
    monkeypatch.setenv("TRITONSYNC_URL", str(tmp_path / "bucket"))
    monkeypatch.setenv(variable, value)
    before = list(sys.meta_path)
    autoload.activate()
    assert sys.meta_path == before
    assert session.current() is None
    assert [variable in record.getMessage() for record in caplog.records] == [True]
    with pytest.raises(SettingsError, match=variable):
        autoload.install()
