from __future__ import annotations

import typer

from eztinker import __version__
from eztinker.cli.output import JsonFlag, print_json


def print_and_exit(is_wanted: bool) -> None:
    """Print the version and exit, for `--version`, before any command is parsed."""
    if is_wanted:
        version()
        raise typer.Exit


def version(as_json: JsonFlag = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__})
    else:
        print(f"eztinker {__version__}")
