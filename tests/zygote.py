"""A zygote: a process that has imported torch, and forks itself for each program that is to run.

`python zygote.py serve SOCKET` imports, and then waits. `python -S -E zygote.py run SOCKET PROGRAM ARGUMENTS...` stands
for `python PROGRAM ARGUMENTS...` with the variables, folder and streams of this process; it passes signals on and ends
as the program does. Killing it kills the program.

What a fresh process would do is done in the child: environment, sys.argv, sys.path and `__main__` are the program's,
torch loads its plugins there, and the interpreter ends as it always does. In the zygote no plugin is active, no graph
was ever compiled and no thread was started. What is left of its time as another process: hash seed and imports. A
program whose behaviour at import matters, or whose variables torch reads then, needs a fresh process; of the latter a
child refuses to run.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing  # noqa: F401 - see be_program
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

#: Variables that may differ from the zygote's: read whenever they are needed, or set again in the child.
READ_LATE = {
    "TORCH_CACHING_PRECOMPILE",
    "TORCH_COMPILE_JOB_ID",
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "TRITON_CACHE_MANAGER",
}
#: Beginnings of variables that are read when torch, its libraries or Python start.
READ_AT_IMPORT = ("TORCH", "PYTORCH", "TRITON_", "ATEN_", "OMP_", "MKL_", "PYTHON", "LD_")
#: Programs that load what torch imports late; below this folder.
SCOUTS = (("plugins/programs.py", "train"), ("plugins/gpu_graphs.py", "softmax"))
#: What a program with the plugin in it imports.
OURS = ("tritonsync.plugins.inductor", "tritonsync.plugins.triton_kernels", "tritonsync.watch.observer", "s3fs")


def serve(path: str, load: Callable[[], None]) -> None:
    """Import by `load`, then fork a child for each request, until stdin is closed."""
    at_import = dict(os.environ)
    load()
    by_import = {name: text for name, text in os.environ.items() if at_import.get(name) != text}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(f"{path}.new")
        server.listen(64)
        os.rename(f"{path}.new", path)  # noqa: PTH104 - who sees the path may connect
        waiting: set[int] = set()
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            waiting -= {pid for pid in waiting if os.waitpid(pid, os.WNOHANG)[0]}
            pid = os.fork()
            if pid == 0:
                break
            waiting.add(pid)
            connection.close()
        else:
            for pid in waiting:
                os.waitpid(pid, 0)
            return
    request, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    if not request:
        os._exit(1)
    pid = os.fork()
    if pid != 0:
        for stream in streams:
            os.close(stream)
        wait(pid, connection)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    become(**json.loads(request), at_import=at_import, by_import=by_import)


def load() -> None:
    """Import all that programs will, and compute what depends on nothing but the installation."""
    import torch
    from torch._inductor import codecache, compile_fx  # noqa: F401

    for name in OURS:
        importlib.import_module(name)
    for program, argument in SCOUTS:
        for name in modules_after(str(Path(__file__).parent / program), argument):
            with contextlib.suppress(ImportError):  # what was generated is gone again
                importlib.import_module(name)
    for name in ("torch_key", "triton_key"):  # hashes of their own sources
        getattr(codecache, name, lambda: None)()
    assert not torch._dynamo.utils.counters
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread would be missing in the children"
    gc.collect()
    gc.freeze()


def modules_after(program: str, argument: str) -> list[str]:
    """Return the modules that are there once a program has run, which it does in a child."""
    import tempfile

    readable, writable = os.pipe()
    if os.fork() == 0:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            be_program([program, argument])
            run_program()
        with os.fdopen(writable, "w") as pipe:
            json.dump([name for name in sys.modules if not name.startswith(("tests", "__main__"))], pipe)
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        told = pipe.read()
    os.wait()
    names: list[str] = json.loads(told)
    return names


def wait(pid: int, connection: socket.socket) -> NoReturn:
    """Pass signals on to the program, and tell how it ended."""
    ended = os.pidfd_open(pid)
    watched: list[int | socket.socket] = [ended, connection]
    while ended not in select.select(watched, [], [])[0]:
        number = connection.recv(1)
        if not number:
            watched.remove(connection)
        os.kill(pid, number[0] if number else signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def become(
    arguments: list[str], environ: dict[str, str], folder: str, at_import: dict[str, str], by_import: dict[str, str]
) -> None:
    """Be the process of a program, and run it.

    Args:
        arguments: the program and its own.
        environ: its variables.
        folder: its working folder.
        at_import: the variables with which the zygote started.
        by_import: those that its imports have set.
    """
    for name in sorted((environ.keys() | at_import.keys()) - READ_LATE):
        if name.startswith(READ_AT_IMPORT) and environ.get(name) != at_import.get(name):
            sys.exit(f"{name} is read at import: this program needs a fresh process")
    os.environ.clear()
    os.environ.update({**by_import, **environ})
    os.chdir(folder)
    be_program(arguments)
    import torch

    read_again(environ)
    torch.default_generator.seed()
    if torch._is_device_backend_autoload_enabled():
        torch._import_device_backends()
    run_program()


def read_again(environ: dict[str, str]) -> None:
    """Set what torch has read from variables when it was imported."""
    import torch.compiler.config

    torch.compiler.config.job_id = environ.get("TORCH_COMPILE_JOB_ID")
    package: Any = sys.modules.get("torch._dynamo.package")
    if package is not None:
        torch._dynamo.config.caching_precompile = environ.get("TORCH_CACHING_PRECOMPILE", "0") == "1"
        package.DynamoCache = package.DiskDynamoCache(str(Path(package.cache_dir()) / "dynamo"))


def be_program(arguments: list[str]) -> None:
    """Look like the interpreter of a program.

    The second name of `__main__` is in torch's keys where multiprocessing was imported before torch, as in programs.py:
    pickles name a memory format by the first module in sys.modules that has `torch`.
    """
    main = ModuleType("__main__")
    main.__file__ = arguments[0]
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    sys.argv = arguments
    sys.path[0] = os.path.dirname(arguments[0])  # noqa: PTH120 - as Python does it


def run_program() -> None:
    """Execute the program."""
    exec(compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec"), sys.modules["__main__"].__dict__)


def run(path: str, *arguments: str) -> NoReturn:
    """Have the zygote run a program, and end as it does."""
    request = {"arguments": arguments, "environ": dict(os.environ), "folder": str(Path.cwd())}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: connection.send(bytes([number])))
        told = connection.recv(16)
    if not told:
        sys.exit("the zygote has ended")
    code = int(told)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(*sys.argv[2:])
    serve(sys.argv[2], load)
