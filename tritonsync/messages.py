"""Warnings that are said once per cause: a thousand graphs that meet one broken bucket are one line.

Standard library only. Imports: nothing.
"""

from __future__ import annotations

import logging

__all__ = ["warn_once"]

_said: set[str] = set()


def warn_once(
    log: logging.Logger, cause: str, message: str, *args: object, exc_info: BaseException | None = None
) -> None:
    """Log a warning, unless this process has said one of this cause; later ones go to the debug log."""
    level = logging.DEBUG if cause in _said else logging.WARNING
    _said.add(cause)
    log.log(level, message, *args, exc_info=exc_info)
