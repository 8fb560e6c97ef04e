from __future__ import annotations

from typing import Annotated

import typer

from eztinker.cli import completion
from eztinker.cli.output import JsonFlag, print_json, print_table, size, when
from eztinker.rest_client import rest_client


def checkpoints(
    run_id: Annotated[
        str | None, typer.Argument(help="Only those of this run.", show_default=False, autocompletion=completion.runs)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List checkpoints, of all runs or of one."""
    with rest_client() as client:
        found = client.checkpoints(run_id)
    if as_json:
        print_json(found)
    elif not found:
        print(f"No checkpoints{f' of {run_id}' if run_id else ''} yet; make one with: eztinker save RUN NAME")
    else:
        rows = ((c["path"], c["checkpoint_type"], size(c.get("size_bytes")), when(c["time"])) for c in found)
        print_table(("path", "kind", "size", "saved"), rows)
