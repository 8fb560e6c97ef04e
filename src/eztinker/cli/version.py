from __future__ import annotations

from eztinker import __version__
from eztinker.cli.output import JsonFlag, print_json


def version(as_json: JsonFlag = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__})
    else:
        print(f"eztinker {__version__}")
