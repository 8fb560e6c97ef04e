from __future__ import annotations

from typing import Annotated

import typer

from eztinker.cli import completion
from eztinker.cli.output import JsonFlag, plain, print_json
from eztinker.rest_client import rest_client


def label(
    run: Annotated[str, typer.Argument(help="A training run; see: eztinker runs", autocompletion=completion.runs)],
    name: Annotated[str | None, typer.Option(help="Its new name; '' takes the name away.")] = None,
    note: Annotated[str | None, typer.Option(help="Its new note; '' takes the note away.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rename a run, or write a note on it.

    Example: eztinker label RUN --name best-so-far --note "rank 32, two epochs"
    """
    given = {"name": name, "note": note}
    changes = {field: value or None for field, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("say what to change with --name or --note")
    with rest_client() as client:
        changed = client.label_run(run, changes)
    if as_json:
        print_json(changed)
        return
    called = f"named {changed['name']}" if changed["name"] else "without a name"
    note_text = f", with the note: {plain(changed['note'])}" if changed["note"] else ""
    print(f"{changed['run_id']} is now {called}{note_text}")
