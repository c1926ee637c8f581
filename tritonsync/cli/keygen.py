"""`tritonsync keygen`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from tritonsync.cli.options import Json
from tritonsync.cli.output import Output, complain
from tritonsync.errors import SettingsError
from tritonsync.settings import VARIABLES

__all__ = ["keygen"]

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder for the two files; made if there is none.")]


def keygen(out: Out = Path(), as_json: Json = False) -> None:
    """Make a key pair to sign what is published.

    Writes signing-key.pem, for whoever publishes and nobody else, and trusted-key.pem, for everybody, and prints the
    two variables that name them. Nothing is ever overwritten.
    """
    from tritonsync.store.trust import make_keys

    folder = out.expanduser().absolute()
    if os.pathsep in str(folder):
        raise SettingsError(
            f"--out {folder}: {VARIABLES['trusted_keys'][0]} cannot name a path with {os.pathsep!r} in it"
        )
    files = make_keys(folder)
    variables = {VARIABLES["signing_key"][0]: str(files.signing), VARIABLES["trusted_keys"][0]: str(files.trusted)}
    if not as_json:
        complain(f"wrote {files.signing} (keep it where you publish, and secret) and {files.trusted} (for everybody)")
    # Alone on stdout, so that a shell can take them: eval "$(tritonsync keygen)".
    Output(as_json).result(
        {"signing_key": str(files.signing), "trusted_key": str(files.trusted), "variables": variables},
        "\n".join(f"export {name}={shlex.quote(path)}" for name, path in variables.items()),
    )
