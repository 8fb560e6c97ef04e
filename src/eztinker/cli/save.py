from __future__ import annotations

from typing import Annotated

import typer

from eztinker.cli import completion
from eztinker.cli.output import JsonFlag, print_json
from eztinker.cli.server_timeout import while_server_answers
from eztinker.rest_client import SCHEME


def save(
    run_id: Annotated[str, typer.Argument(help="A training run; see: eztinker runs", autocompletion=completion.runs)],
    name: Annotated[str, typer.Argument(help="Name of the checkpoint; an older one of that name is replaced.")],
    for_sampler: Annotated[bool, typer.Option("--sampler", help="The adapter alone, without its optimizer.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Save a run under a name of your own and print the checkpoint's tinker:// path."""
    path = while_server_answers(lambda: _saved(run_id, name, for_sampler=for_sampler))
    if as_json:
        print_json({"path": path})
    else:
        print(path)


def _saved(run_id: str, name: str, *, for_sampler: bool) -> str:
    from eztinker.rl.connection import sdk_errors
    from eztinker.rl.runs import open_run

    run = open_run(run_id)
    if for_sampler:
        return run.save_for_sampling(name)
    with sdk_errors():
        run.save(name).result()
    return f"{SCHEME}{run.run_id}/weights/{name}"
