"""Warnings inside programs: said once per cause, by a speaker that names itself.

A thousand graphs that meet one broken bucket are one line, and of eight ranks that write to one terminal each says
which it is. Standard library only.

Imports: settings, redaction.
"""

from __future__ import annotations

import logging
import os

from tritonsync.redaction import redact, traceback_of
from tritonsync.settings import LogLevel, launched_rank

__all__ = ["name_speaker", "set_level", "speaker", "warn_once"]

_said: set[str] = set()


def warn_once(
    log: logging.Logger, cause: str, message: str, *args: object, exc_info: BaseException | None = None
) -> None:
    """Log a warning, unless this process has said one of this cause; later ones go to the debug log."""
    level = logging.DEBUG if cause in _said else logging.WARNING
    _said.add(cause)
    if not log.isEnabledFor(level):
        return
    text = redact(message % args if args else message)
    log.log(level, "%s", text if exc_info is None else f"{text}\n{traceback_of(exc_info)}")


def speaker() -> str:
    """Return what this process calls itself: `tritonsync[rank 3]`, or `tritonsync[4711]` after its process id."""
    rank = launched_rank()
    return f"tritonsync[{os.getpid() if rank is None else f'rank {rank}'}]"


class _Speaker(logging.Handler):
    """Puts the speaker before what our loggers say, and says it where nobody else does.

    It is on our own logger only: what a program configures, for itself or for `tritonsync`, stays as it is. Records
    come here from all of our loggers, and go on to the program's handlers. Where there is none, Python writes warnings
    to stderr; but a logger with a handler counts as configured, so that is done here.
    """

    #: What is said where nobody else does.
    least = logging.WARNING

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = f"{speaker()}: {record.getMessage()}", None
        if record.levelno >= self.least and not _has_others(self, logging.getLogger(record.name)):
            fallback = logging.lastResort
            if fallback is not None:
                fallback.handle(record)


def _has_others(handler: logging.Handler, logger: logging.Logger) -> bool:
    """Whether another handler than this one gets what a logger is told."""
    at: logging.Logger | None = logger
    while at is not None:
        if any(other is not handler for other in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False


_handler = _Speaker()


def name_speaker(*, named: bool = True) -> None:
    """Have our loggers name this process, as is right inside programs; or have them stop."""
    ours = logging.getLogger("tritonsync")
    ours.removeHandler(_handler)
    if named:
        ours.addHandler(_handler)


def set_level(level: LogLevel | None) -> None:
    """Have our loggers say what is of this level and above, also where the program has set up no logging.

    None changes nothing: a program may have configured `logging.getLogger("tritonsync")` itself.
    """
    if level is not None:
        _handler.least = getattr(logging, level.upper())
        logging.getLogger("tritonsync").setLevel(_handler.least)
