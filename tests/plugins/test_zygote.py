"""A program that is forked from the zygote cannot tell that it was."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import pytest

from tests.plugins.conftest import Worker

PORTRAIT = """
import atexit, json, multiprocessing, os, signal, sys, threading
import torch, torch._dynamo.utils, torch.compiler.config
from torch._inductor.runtime.cache_dir_utils import cache_dir

def tell():
    print(json.dumps({
        "line": sys.stdin.readline(),
        "arguments": sys.argv[1:],
        "main": [__name__, os.path.basename(__file__), sys.modules["__main__"].__dict__ is globals()],
        "path": sys.path[1:3],
        "folder": os.getcwd(),
        "variables": {name: text for name, text in os.environ.items() if name != "TRITONSYNC_REPORT_DIR"},
        "cache": cache_dir(),
        "job": torch.compiler.config.job_id,
        "counted": len(torch._dynamo.utils.counters),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "torch": torch.get_num_threads(),
        "child": multiprocessing.parent_process() is not None,
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)],
        "files": sorted(os.listdir("/proc/self/fd")),
        "plugin": "tritonsync.plugins.autoload" in sys.modules,
    }))

threading._register_atexit(lambda: print("the main thread is done", file=sys.stderr))
atexit.register(lambda: print("all is done", file=sys.stderr))
tell()
sys.exit(int(sys.argv[1]))
"""


#: Takes an interruption also where its parents ignore them, as those in the background of a shell do.
PATIENT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
print("up", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    (tmp_path / "portrait.py").write_text(PORTRAIT)
    return tmp_path / "portrait.py"


def test_it_is_what_a_fresh_interpreter_is(worker: Worker, fresh_worker: Worker, portrait: Path) -> None:
    """Variables, folder, streams, arguments, threads, signals and the way it ends."""
    seen = []
    for each in (worker, fresh_worker):
        process, reports = dataclasses.replace(each, program=portrait).start(
            7, "a b", cache=portrait.parent / "cache", TORCH_COMPILE_JOB_ID="job"
        )
        assert process.stdin is not None
        process.stdin.write("a line\n")
        seen.append(dataclasses.replace(each.end(process, reports), events=[]))  # which hold its number
    assert seen[0].code == 7
    assert seen[0].out["line"] == "a line\n"
    assert seen[0] == seen[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_takes_the_signals(worker: Worker, portrait: Path, number: signal.Signals) -> None:
    """What ends the command ends the program, and is how the command ends."""
    # It waits for the signal alone: at the end of its input it would race with a signal on its way through the zygote.
    portrait.write_text(PATIENT)
    process, reports = dataclasses.replace(worker, program=portrait).start()
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    done = worker.end(process, reports)
    assert done.code == -number
    assert ("KeyboardInterrupt" in done.err) == (number == signal.SIGINT)


def test_what_torch_reads_at_import_is_refused(worker: Worker, portrait: Path) -> None:
    """It would have no effect, and nobody would notice."""
    done = dataclasses.replace(worker, program=portrait).run(0, TORCHINDUCTOR_MAX_AUTOTUNE="1", code=1)
    assert "TORCHINDUCTOR_MAX_AUTOTUNE is read at import" in done.err
