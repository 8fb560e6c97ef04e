from __future__ import annotations

from typing import Annotated

import typer

from eztinker.cli import completion
from eztinker.rest_client import SCHEME, RestClient, rest_client, split_path


def delete(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="tinker:// paths, or runs, which means all their checkpoints.",
            metavar="PATH|RUN...",
            autocompletion=completion.runs_and_checkpoints,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete checkpoints for good.

    Example: eztinker delete tinker://RUN/weights/NAME
    """
    with rest_client() as client:
        paths = [path for target in targets for path in _paths_of(target, client)]
        if not paths:
            print("There is nothing to delete.")
            return
        if not yes:
            typer.confirm("\n".join([*paths, "Delete for good?"]), abort=True)
        for path in paths:
            client.delete_checkpoint(*split_path(path))
            print(f"Deleted {path}")


def _paths_of(target: str, client: RestClient) -> list[str]:
    if target.startswith(SCHEME):
        split_path(target)
        return [target]
    return [checkpoint["path"] for checkpoint in client.checkpoints(target)]
