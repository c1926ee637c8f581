"""The rooms of the package, what each may do, and who may import whom: read from the sources and their docstrings."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent / "tritonsync"
MODULES = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}

#: Where packages of others may be imported.
FOREIGN: dict[str, tuple[str, ...]] = {
    "torch": ("plugins/inductor.py", "plugins/precompile"),
    "triton": ("plugins/triton.py", "demo/kernels.py"),
    "helion": ("plugins/helion.py",),
    "fsspec": ("remote/",),
    "obstore": ("remote/",),
    "aiohttp": ("remote/",),
    "botocore": ("remote/",),
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


def room_of(path: Path) -> str:
    """Return the room of a file: the folder below the package, or the file itself."""
    return path.parts[0] if len(path.parts) > 1 else path.stem


def rooms() -> dict[str, set[str]]:
    """Return what each room says that it imports, in its docstring's line `Imports: ...`."""
    stated = {}
    for path, tree in MODULES.items():
        if len(path.parts) == 1 or path.name == "__init__.py":
            said = re.search(r"Imports: ([^.;]+)[.;]", ast.get_docstring(tree) or "")
            assert said is not None, f"{path} does not say what its room imports"
            stated[room_of(path)] = set() if said[1] == "nothing" else set(re.split(r",\s+", said[1]))
    return stated


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that is imported, anywhere in the file but for the type checker alone."""
    for node in ast.walk(MODULES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            assert node.module is not None
            # `from tritonsync.cli import demo` imports a module, not a name of the package.
            is_package = (ROOT.parent / node.module.replace(".", "/")).is_dir() and node.module.startswith("tritonsync")
            yield from [f"{node.module}.{alias.name}" for alias in node.names] if is_package else [node.module]


def test_no_files_import_each_other() -> None:
    """Not by a detour either, nor inside a function; `__init__` loads its names when they are used."""
    names = {".".join(("tritonsync", *path.with_suffix("").parts)): path for path in MODULES}
    needs = {name: {used for used in imports(path) if used in names} for name, path in names.items()}
    built: set[str] = set()
    while built != needs.keys():
        free = {name for name, used in needs.items() if name not in built and used <= built}
        assert free, f"a circle among {sorted(needs.keys() - built)}"
        built |= free


def test_imports_go_one_way() -> None:
    """Each file imports only from the rooms that its own names, and no room is above itself."""
    stated = rooms()
    for path in MODULES:
        if str(path) == "__init__.py":
            continue  # its names are loaded when they are used
        for name in imports(path):
            top, _, below = name.partition(".")
            if top == "tritonsync":
                room = below.partition(".")[0]
                assert room in stated[room_of(path)] | {room_of(path)}, f"{path} may not import {name}"
    built: set[str] = set()
    while built != stated.keys():
        free = {room for room, needs in stated.items() if room not in built and needs <= built}
        assert free, f"a circle among {stated.keys() - built}"
        built |= free


def test_packages_of_others_stay_in_their_room() -> None:
    """torch, triton, fsspec and the rest are imported where the design says, and s3fs and gcsfs nowhere."""
    for path in MODULES:
        for name in imports(path):
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in ("tritonsync", "__future__"):
                assert str(path).startswith(FOREIGN.get(top, ())), f"{path} may not import {name}"


def test_the_format_does_no_io() -> None:
    """Bytes come in as arguments and go out as results."""
    for path, tree in MODULES.items():
        if room_of(path) != "format":
            continue
        assert not IO & {name.partition(".")[0] for name in imports(path)}, path
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not any(isinstance(call, ast.Name) and call.id in ("open", "print") for call in calls), path
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "pathlib":
                assert {alias.name for alias in node.names} <= {"PurePath", "PurePosixPath"}, path


def test_only_the_settings_read_the_environment() -> None:
    """Elsewhere `os.environ` may be handed on to a child as a whole, and nothing else."""
    for path, tree in MODULES.items():
        if str(path) == "settings.py":
            continue
        dicts = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
        handed_on = {id(value) for each in dicts for key, value in zip(each.keys, each.values, strict=True) if not key}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"):
                assert id(node) in handed_on, f"{path}:{node.lineno} reads the environment"


def test_plugins_use_the_verbs_of_the_session() -> None:
    """Its parts are its own: nothing outside the room touches an attribute with an underscore of a session."""
    for path, tree in MODULES.items():
        if room_of(path) in ("plugins", "watch", "cli"):
            names = {name for name in imports(path) if name.startswith("tritonsync.session.")}
            # `process` serves `import torch`, before there is a session.
            assert names <= {f"tritonsync.session.{name}" for name in ("session", "session.session", "process")}, path
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "now":
                    assert not node.attr.startswith("_"), f"{path}:{node.lineno}"


def test_files_stay_small() -> None:
    """One idea a file."""
    for path in MODULES:
        assert len((ROOT / path).read_text().splitlines()) <= 400, path


def test_importing_the_package_is_cheap() -> None:
    """Nothing heavy is loaded, and nothing is warned about."""
    heavy = ["torch", "triton", "fsspec", "s3fs", "gcsfs", "rich", "typer", "cryptography", "msgspec", "asyncio"]
    program = f"import sys, tritonsync; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
