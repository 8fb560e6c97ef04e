from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from eztinker.cli.client import RestClient, rest_client, split_path
from eztinker.errors import AlreadyExists, DataNotFound


class Form(StrEnum):
    PEFT = "peft"
    MERGED = "merged"


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def export(
    form: Annotated[Form, typer.Argument(help="The adapter alone, or the base model with the adapter in its weights.")],
    checkpoint: Annotated[str, typer.Argument(help="A tinker:// path; see: eztinker checkpoints")],
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

    with rest_client() as client, _new_folder(directory) as folder:
        parts = unpack(client.archive(checkpoint))
        if form is Form.PEFT:
            for name, content in parts.items():
                (folder / name).write_bytes(content)
        else:
            _merge(parts, base_model or _base_model_of(checkpoint, client), folder, dtype)
    print(directory)


def _merge(parts: dict[str, bytes], base: Path, folder: Path, dtype: Dtype) -> None:
    from eztinker.base_models.merging import write_merged
    from eztinker.base_models.weight_shapes import head_is_tied, weight_shapes
    from eztinker.checkpoints.peft_reading import read_peft

    factors, lora = read_peft(parts, weight_shapes(base), head_is_tied=head_is_tied(base))
    write_merged(base, factors, lora.alpha / lora.rank, folder, dtype=dtype.value)


def _base_model_of(checkpoint: str, client: RestClient) -> Path:
    """Where the server has the base model, if that is on this machine too."""
    run_id, _ = split_path(checkpoint)
    base = Path(client.tokenizer_directory(run_id))
    if not (base / "config.json").is_file():
        raise DataNotFound("The checkpoint's base model is not on this machine; name its folder with --base-model")
    return base


@contextmanager
def _new_folder(directory: Path) -> Iterator[Path]:
    """A folder that takes its name only when the block has filled it."""
    if directory.exists():
        raise AlreadyExists(f"{directory} exists already; name a folder that does not")
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
