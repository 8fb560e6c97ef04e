from __future__ import annotations

from typing import Annotated

import typer


def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Base models, by hub id.", metavar="[NAME]...", show_default="the embedded model"),
    ] = None,
) -> None:
    """Fetch base models now, so that a later start needs no network.

    Example: eztinker fetch Qwen/Qwen2-0.5B-Instruct
    """
    from rich.console import Console

    from eztinker.base_models.catalog import load_catalog

    for model in load_catalog(names or [], Console(stderr=True)):
        print(f"{model.name} is in {model.directory}")
