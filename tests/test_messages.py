"""Who says what, inside a program."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from tritonsync.messages import name_speaker, set_level, speaker

log = logging.getLogger("tritonsync.somewhere.deep")


@contextlib.contextmanager
def program() -> Iterator[io.StringIO]:
    """Be a program that configures no logging, in which tritonsync is active; yield its stderr.

    No fixture: pytest has handlers on the root logger while a test runs.
    """
    with pytest.MonkeyPatch.context() as patch:
        written = io.StringIO()
        patch.delenv("RANK", raising=False)
        patch.setattr(logging.getLogger(), "handlers", [])
        patch.setattr(sys, "stderr", written)
        name_speaker()
        try:
            yield written
        finally:
            name_speaker(named=False)


def test_a_warning_names_its_process() -> None:
    """Once, and nothing below a warning is said."""
    with program() as terminal:
        log.warning("the bucket is %s", "off")
        log.info("quiet")
        assert terminal.getvalue() == f"tritonsync[{os.getpid()}]: the bucket is off\n"


def test_a_warning_names_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a launcher has given one; what is no rank is left alone."""
    with program() as terminal:
        monkeypatch.setenv("RANK", "3")
        log.warning("100 %")
        assert terminal.getvalue() == "tritonsync[rank 3]: 100 %\n"
        monkeypatch.setenv("RANK", "none of %s")
        assert speaker() == f"tritonsync[{os.getpid()}]"


def test_what_a_program_configures_is_what_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handlers, on the root or on ours, get each record once, and nothing else is written; so do its levels."""
    with program() as terminal:
        for logger in (logging.getLogger(), logging.getLogger("tritonsync")):
            theirs = io.StringIO()
            handler = logging.StreamHandler(theirs)
            handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
            monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])
            log.warning("said")
            assert theirs.getvalue() == f"WARNING {log.name} {speaker()}: said\n"
            logging.getLogger("tritonsync").setLevel(logging.ERROR)
            log.warning("not said")
            logging.getLogger("tritonsync").setLevel(logging.NOTSET)
            assert theirs.getvalue().count("said") == 1
            logger.handlers.remove(handler)
        assert terminal.getvalue() == ""


def test_the_level_holds_where_the_program_has_set_up_no_logging() -> None:
    """What TRITONSYNC_LOG asks for is said on stderr, and the rest is not."""
    with program() as terminal:
        log.info("by default not")
        set_level("info")
        log.info("asked for")
        log.debug("not asked for")
        set_level("error")
        log.warning("nor this")
        set_level("warning")
        logging.getLogger("tritonsync").setLevel(logging.NOTSET)
        assert terminal.getvalue() == f"{speaker()}: asked for\n"


def test_other_loggers_are_not_touched() -> None:
    """Neither the root logger nor that of anybody else."""
    with program() as terminal:
        assert logging.getLogger().handlers == []
        logging.getLogger("elsewhere").warning("mine")
        assert terminal.getvalue() == "mine\n"


def test_outside_of_programs_nobody_is_named() -> None:
    """Commands have a way of their own to say things."""
    with program() as terminal:
        name_speaker(named=False)
        log.warning("plain")
        assert terminal.getvalue() == "plain\n"
