"""The shapes of a model's weights, from the headers of its safetensors files; no weight is read."""

from __future__ import annotations

from pathlib import Path

from eztinker.model_files import tensor_files
from eztinker.model_files.folder import read_model_folder


def weight_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Every weight of the model in `directory` by name; a head that is the embedding is not among them.

    Raises:
        UserError: it is no folder that is served.
    """
    return {name: tensor.shape for name, tensor in read_model_folder(directory, directory.name).tensors.items()}


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of the model in `directory`: one, or the shards its index names."""
    return tensor_files.weight_files(directory, directory.name)


def head_is_tied(directory: Path) -> bool:
    """Whether the output layer of the model in `directory` is its embedding, as the decoder decides it."""
    return read_model_folder(directory, directory.name).head_is_tied
