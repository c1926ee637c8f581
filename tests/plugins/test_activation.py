"""`import torch` with tritonsync installed."""

from __future__ import annotations

import pytest

from tests.plugins.conftest import Filled, Worker


def test_without_a_url_nothing_is_loaded(fresh_worker: Worker) -> None:
    """The entry point loads the settings and nothing else, and no line is said at exit."""
    process, reports = fresh_worker.start("import_only")
    done = fresh_worker.end(process, reports)
    assert done.code == 0, done.err
    assert "tritonsync" not in done.err
    assert not any(name.startswith(("fsspec", "s3fs", "tritonsync.session.session")) for name in done.out["modules"])


def assert_said_once(worker: Worker, filled: Filled, name: str, value: str) -> None:
    """Run a program with a variable that is wrong: it compiles, and is told so once."""
    url = value if name == "TRITONSYNC_URL" else str(filled.path)
    others = {} if name == "TRITONSYNC_URL" else {name: value}
    done = worker.run("train", bucket=url, **others)  # type: ignore[arg-type]
    assert done.out["numbers"] == filled.first.out["numbers"]
    assert done.hits == (0, 0)
    assert sum(value in line for line in done.err.splitlines()) == 1, done.err


@pytest.mark.parametrize(
    ("name", "value"), [("TRITONSYNC_BUDGET_S", "soon"), ("TRITONSYNC_URL", "what://is/this")], ids=["number", "url"]
)
def test_import_never_fails(fresh_worker: Worker, filled: Filled, name: str, value: str) -> None:
    """Whatever the variables say, torch is imported and compiles; what is wrong is said once."""
    assert_said_once(fresh_worker, filled, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRITONSYNC_MODE", "sometimes"),
        ("TRITONSYNC_URL", "s3://x"),
        ("TRITONSYNC_SIGNING_KEY", "/no/such/key.pem"),
    ],
    ids=["mode", "short-url", "key"],
)
def test_what_is_wrong_with_the_settings_is_said_once(worker: Worker, filled: Filled, name: str, value: str) -> None:
    """The program compiles as ever."""
    assert_said_once(worker, filled, name, value)


def test_mode_off(worker: Worker, filled: Filled) -> None:
    """TRITONSYNC_MODE=off is off, with a URL."""
    done = worker.run("train", bucket=filled.path, TRITONSYNC_MODE="off")
    assert done.hits == (0, 0)
    assert "tritonsync" not in done.err


def test_quiet(worker: Worker, filled: Filled) -> None:
    """TRITONSYNC_QUIET=1 silences the line at exit."""
    done = worker.run("train", bucket=filled.path, TRITONSYNC_QUIET="1")
    assert done.hits == (2, 1)
    assert "tritonsync" not in done.err


def test_by_hand_and_back(fresh_worker: Worker, filled: Filled) -> None:
    """`install()` does what the entry point does, `uninstall()` takes it back."""
    done = fresh_worker.run("by_hand", str(filled.path), TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert done.out["hits"] == [[0, 0], [2, 1]]
    assert done.out["restored"] is True


def test_an_unknown_torch_is_left_alone(fresh_worker: Worker, filled: Filled) -> None:
    """Where a function has another signature, all patches are taken back, with one warning."""
    done = fresh_worker.run("unknown_torch", str(filled.path), TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert done.hits == (0, 0)
    assert done.err.count("stays out of torch.compile") == 1
    assert done.out["restored"] is True
