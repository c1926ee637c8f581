"""The rooms of the package and who may import whom, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "tritonsync"
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))

#: What a room may import of the package, besides itself.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "settings": {"errors"},
    "format": {"errors"},
    "local": {"errors", "settings", "format"},
    "remote": {"errors", "settings", "format"},
    "store": {"errors", "settings", "format", "remote"},
    "bundler": {"errors", "settings", "format", "local"},
    "sync": {"errors", "settings", "format", "local", "store", "root"},
    "audit": {"errors", "format", "remote", "store", "sync"},
    "watch": {"errors", "settings"},
    "session": {"errors", "settings", "format", "local", "remote", "store", "sync", "watch", "root"},
    "plugins": {"errors", "settings", "format", "local", "sync", "session", "watch"},
    "demo": {"errors", "format", "store", "sync"},
    "cli": {"errors", "settings", "format", "local", "remote", "store", "sync", "audit", "watch", "demo", "root"},
    "root": {"errors", "settings", "bundler", "store", "plugins"},
    "__main__": {"cli"},
}
#: Where packages of others may be imported.
FOREIGN: dict[str, tuple[str, ...]] = {
    "torch": ("plugins/inductor.py",),
    "triton": ("plugins/triton.py", "demo/kernels.py"),
    "fsspec": ("remote/",),
    "aiohttp": ("remote/",),
    "tenacity": ("remote/",),
    "filelock": ("local/",),
    "zstandard": ("format/",),
    "cryptography": ("format/",),
    "msgspec": ("format/", "cli/"),
    "typer": ("cli/",),
    "rich": ("cli/",),
}
#: Nothing in `format` reads or writes anything.
IO = {"os", "shutil", "tempfile", "subprocess", "socket", "urllib", "http", "mmap", "logging", "threading", "asyncio"}


def room(module: str) -> str:
    """Return the room of a dotted name below the package."""
    top = module.partition(".")[0]
    if not top:
        return "root"
    return top if top in ALLOWED else "root"


def room_of(path: Path) -> str:
    return room(".".join(path.with_suffix("").parts).removesuffix("__init__").rstrip("."))


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that is imported, anywhere in the file."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            assert node.module is not None
            # `from tritonsync.cli import demo` imports a module, not a name of the package.
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            is_package = (ROOT.parent / node.module.replace(".", "/")).is_dir()
            yield from modules if is_package and node.module.startswith("tritonsync") else [node.module]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_one_way(path: Path) -> None:
    """Each file imports only from the rooms below its own."""
    for name in imports(path):
        if name.partition(".")[0] == "tritonsync":
            target = name.partition(".")[2]
            if not (ROOT / target.replace(".", "/")).with_suffix(".py").exists() and not (ROOT / target).is_dir():
                target = target.rpartition(".")[0]
            assert room(target) in ALLOWED[room_of(path)] | {room_of(path)}, f"{path} may not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_packages_of_others_stay_in_their_room(path: Path) -> None:
    """torch, triton, fsspec and the rest are imported where the design says, and s3fs and gcsfs nowhere."""
    for name in imports(path):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("tritonsync", "__future__"):
            places = FOREIGN.get(top, ())
            assert str(path).startswith(places), f"{path} may not import {name}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "format"], ids=str)
def test_the_format_does_no_io(path: Path) -> None:
    """Bytes come in as arguments and go out as results."""
    tree = ast.parse((ROOT / path).read_text())
    assert not IO & {name.partition(".")[0] for name in imports(path)}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not any(isinstance(call, ast.Name) and call.id in ("open", "print") for call in calls)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "pathlib":
            assert {alias.name for alias in node.names} <= {"PurePath", "PurePosixPath"}


@pytest.mark.parametrize("path", [path for path in MODULES if str(path) != "settings.py"], ids=str)
def test_only_the_settings_read_the_environment(path: Path) -> None:
    """Elsewhere `os.environ` may be handed on to a child as a whole, and nothing else."""
    tree = ast.parse((ROOT / path).read_text())
    handed_on = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            handed_on |= {id(value) for key, value in zip(node.keys, node.values, strict=True) if key is None}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"):
            assert id(node) in handed_on, f"{path}:{node.lineno} reads the environment"


def test_importing_the_package_is_cheap() -> None:
    """Nothing heavy is loaded, and nothing is warned about."""
    heavy = ["torch", "triton", "fsspec", "s3fs", "gcsfs", "rich", "typer", "cryptography", "msgspec", "asyncio"]
    program = f"import sys, tritonsync; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
