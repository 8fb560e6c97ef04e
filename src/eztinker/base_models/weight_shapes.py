"""The shapes of a model's weights, from the headers of its safetensors files; no weight is read."""

from __future__ import annotations

import json
from pathlib import Path

from eztinker.base_models.base_model import WEIGHTS_FILE, WEIGHTS_INDEX_FILE
from eztinker.errors import DataDamaged

_MAX_HEADER_BYTES = 100_000_000
"""The limit of the format itself."""


def weight_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Every weight of the model in `directory` by name.

    Raises:
        DataDamaged: a file is no safetensors file.
    """
    return {name: shape for path in weight_files(directory) for name, shape in _shapes_in(path).items()}


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of the model in `directory`: one, or the shards its index names."""
    index = directory / WEIGHTS_INDEX_FILE
    if not index.is_file():
        return [directory / WEIGHTS_FILE]
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [directory / shard for shard in sorted(set(shards))]


def head_is_tied(directory: Path) -> bool:
    """Whether the output layer of the model in `directory` is its embedding, as the decoder decides it."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config.get("tie_word_embeddings", False) or "lm_head.weight" not in weight_shapes(directory)


def _shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as file:
            num_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(num_bytes, _MAX_HEADER_BYTES)))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataDamaged(f"{path.name} of {path.parent.name} is not a safetensors file; fetch it again") from error
