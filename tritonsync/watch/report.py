"""What the processes of a watched run report: lines of JSON, one file a process, in a folder that they share.

Each line is written when it happens, because a process may end without a word: compile workers are killed. Standard
library only: it is imported during `import torch`.

::

    {"event":"process", "pid":4711, "argv":["train.py"], "helper":false}   the plugin is in this process
    {"event":"graph", "name":"<FX graph key>", "key":...}                  Inductor compiled a graph; key: null for none
    {"event":"kernel", "name":"<name>", "hash":"<64 hex digits>"}          Triton compiled a kernel
    {"event":"benchmark", "name":"<name>"}                                 configurations of a kernel were timed
    {"event":"precompile", "name":"<function>", "outcome":"used", "reason":""}   what became of a function there
    {"event":"blind", "name":"<module>"}                                   something could not be watched
    {"event":"counts", "counts":{...}, "session":{...}}                    the session at its end: counters, and facts

What explains a graph stands beside its key: `sources`, the files it was traced from and digests of them, `cache`,
Inductor's folder, and `refusal`, why torch gave it no key; beside the hash of a kernel: `folder`, and `of_graph`,
whether Inductor compiled it for a graph.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

__all__ = ["Reporter", "read_reports"]


class Reporter:
    """Writes the lines of this process; a forked child writes to a file of its own. Never raises."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._said: set[str] = set()
        self._pid = 0
        self._path = ""

    def say(self, event: str, **facts: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
        """Write one line, unless this process has written the same."""
        line = json.dumps({"event": event, **facts})
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._said.clear()
            self._path = os.path.join(self._folder, f"{self._pid}-{uuid.uuid4().hex}.jsonl")  # noqa: PTH118
        if line in self._said:
            return
        self._said.add(line)
        # No lock: a fork could leave it locked, and short lines that are appended do not mix.
        with contextlib.suppress(OSError), open(self._path, "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(line + "\n")


def read_reports(folder: Path) -> list[list[dict[str, Any]]]:
    """Return the lines of each process; a last line that was cut off is left out, and what is no report."""
    reports = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # the writer was killed
                event = json.loads(line)
                if isinstance(event, dict):
                    lines.append(event)
        reports.append(lines)
    return reports
