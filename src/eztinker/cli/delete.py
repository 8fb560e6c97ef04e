from __future__ import annotations

from typing import Annotated

import typer

from eztinker.cli.client import RestClient, rest_client
from eztinker.errors import InvalidInput

_SCHEME = "tinker://"


def delete(
    targets: Annotated[
        list[str],
        typer.Argument(help="tinker:// paths, or runs, which means all their checkpoints.", metavar="PATH|RUN..."),
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
            client.delete_checkpoint(*_split(path))
            print(f"Deleted {path}")


def _paths_of(target: str, client: RestClient) -> list[str]:
    if target.startswith(_SCHEME):
        _split(target)
        return [target]
    return [checkpoint["tinker_path"] for checkpoint in client.checkpoints(target)]


def _split(path: str) -> tuple[str, str]:
    """The run and the `<kind>/<name>` of a tinker:// path."""
    run_id, _, checkpoint_id = path.removeprefix(_SCHEME).partition("/")
    if checkpoint_id.count("/") != 1:
        raise InvalidInput(f"A checkpoint looks like tinker://RUN/weights/NAME, got {path!r}")
    return run_id, checkpoint_id
