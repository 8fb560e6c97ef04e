from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from eztinker.cli import completion
from eztinker.errors import AlreadyExists, DataNotFound, InvalidInput
from eztinker.paths import file_in_the_way
from eztinker.rest_client import RestClient, rest_client, split_path


class Form(StrEnum):
    PEFT = "peft"
    MERGED = "merged"


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def export(
    form: Annotated[Form, typer.Argument(help="The adapter alone, or the base model with the adapter in its weights.")],
    checkpoint: Annotated[
        str, typer.Argument(help="A tinker:// path; see: eztinker checkpoints", autocompletion=completion.checkpoints)
    ],
    directory: Annotated[Path, typer.Argument(help="Folder to make.")],
    base_model: Annotated[
        Path | None,
        typer.Option(help="Folder of the base model, for merged.", show_default="where the server has it"),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Numbers of a merged model; bfloat16 rounds.")] = Dtype.FLOAT32,
) -> None:
    """Write a checkpoint as a folder that peft, transformers and vLLM load.

    Example: eztinker export merged tinker://RUN/sampler_weights/NAME my-model
    """
    from eztinker.checkpoints.peft_archive import unpack

    if directory.exists():
        raise AlreadyExists(f"{directory} exists already; name a folder that does not")
    if (file := file_in_the_way(directory)) is not None:
        raise InvalidInput(f"{directory} cannot be made, because {file} is a file; name another folder")
    with rest_client() as client:
        parts = unpack(client.archive(checkpoint))
        base = (base_model or _base_model_of(checkpoint, client)) if form is Form.MERGED else None
    if base is None:
        write_peft(parts, directory)
    else:
        merge(parts, base, directory, dtype)
    print(directory)


def write_peft(parts: dict[str, bytes], directory: Path) -> None:
    """Write the adapter to a new folder, with the file and tensor names of peft and vLLM."""
    from eztinker.checkpoints.disk import atomic_directory, write_file
    from eztinker.checkpoints.peft import changes_tied_head, with_plain_names

    parts = with_plain_names(parts)
    if changes_tied_head(parts):
        sys.stderr.write(
            "Note: the model's output layer is its embedding, and the adapter changes both. peft from 0.19 on computes "
            "that; for any other program, use: eztinker export merged\n"
        )
    with atomic_directory(directory, num_bytes=sum(map(len, parts.values()))) as folder:
        for name, content in parts.items():
            write_file(folder / name, content)


def merge(parts: dict[str, bytes], base: Path, directory: Path, dtype: Dtype) -> None:
    """Write the model in `base`, with the adapter merged into its weights, to a new folder."""
    from eztinker.base_models.merging import merged_bytes, write_merged
    from eztinker.checkpoints.disk import atomic_directory
    from eztinker.checkpoints.peft_reading import read_peft
    from eztinker.model_files.folder import read_model_folder

    model = read_model_folder(base, base.name)
    factors, lora = read_peft(parts, model)
    with atomic_directory(directory, num_bytes=merged_bytes(model.shapes, dtype.value)) as folder:
        write_merged(base, factors, lora.alpha / lora.rank, folder, dtype=dtype.value)


def _base_model_of(checkpoint: str, client: RestClient) -> Path:
    """Folder of the base model in which the server has it, which must be on this machine."""
    run_id, _ = split_path(checkpoint)
    base = Path(client.tokenizer_directory(run_id))
    if not (base / "config.json").is_file():
        raise DataNotFound("The checkpoint's base model is not on this machine; name its folder with --base-model")
    return base
