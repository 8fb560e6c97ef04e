from __future__ import annotations

from typing import Annotated

import typer

from eztinker.cli import completion
from eztinker.cli.output import JsonFlag, print_json
from eztinker.cli.server_timeout import while_server_answers


def create(
    base_model: Annotated[
        str,
        typer.Argument(help="A base model the server serves; see: eztinker models", autocompletion=completion.models),
    ],
    lora_rank: Annotated[int, typer.Option("--lora-rank", "--rank", help="Rank of the adapter.")] = 8,
    name: Annotated[str | None, typer.Option(help="Stands for the run's id wherever one is asked for.")] = None,
    note: Annotated[str | None, typer.Option(help="What the run is for; 'eztinker runs' shows it.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Create a training run and print its id.

    Example: eztinker create HuggingFaceTB/SmolLM2-135M-Instruct --name first-try
    """
    from eztinker.rl import create_training_run

    run_id = while_server_answers(lambda: create_training_run(base_model, lora_rank=lora_rank, name=name, note=note))
    if as_json:
        print_json({"run_id": run_id, "name": name, "base_model": base_model, "lora_rank": lora_rank})
    else:
        print(run_id)
