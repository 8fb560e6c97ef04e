from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eztinker.cli.output import JsonFlag, plain, print_json
from eztinker.errors import DataNotFound
from eztinker.rest_client import rest_client


def import_adapter(
    directory: Annotated[Path, typer.Argument(help="A PEFT folder with a LoRA adapter.")],
    name: Annotated[str, typer.Argument(help="Name of the checkpoint to make of it.")],
    base_model: Annotated[str, typer.Option(help="The served base model it is for; see: eztinker models")],
    as_json: JsonFlag = False,
) -> None:
    """Import an adapter of another program into the server; prints the path to sample or continue training from.

    Example: eztinker import my-adapter imported --base-model Qwen/Qwen2-0.5B-Instruct
    """
    from eztinker.checkpoints.peft_archive import FILES, pack

    missing = [file for file in FILES if not (directory / file).is_file()]
    if missing:
        raise DataNotFound(f"{directory} has no {missing[0]}; an adapter's folder holds {' and '.join(FILES)}")
    archive = pack({file: (directory / file).read_bytes() for file in FILES})
    with rest_client() as client:
        imported = client.import_adapter(archive, base_model=base_model, name=name)
    if imported["warning"]:
        sys.stderr.write(f"Note: {plain(imported['warning'])}\n")
    if as_json:
        print_json({"path": imported["tinker_path"], "warning": imported["warning"]})
    else:
        print(imported["tinker_path"])
