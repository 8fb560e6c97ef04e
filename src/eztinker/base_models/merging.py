"""Merging an adapter into the weights of its base model, for programs that do not load adapters."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, TensorSpec, serialize_file

from eztinker.float_tensors import load_float32, to_bfloat16_bits
from eztinker.model_files.folder import read_model_folder
from eztinker.model_files.tensor_files import WEIGHTS_FILE, WEIGHTS_INDEX_FILE, weight_files

MergedDtype = Literal["float32", "bfloat16"]
_WIDTHS: dict[MergedDtype, int] = {"float32": 4, "bfloat16": 2}

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")


def write_merged(
    base: Path, factors: Mapping[str, np.ndarray], scale: float, directory: Path, *, dtype: MergedDtype
) -> None:
    """Write the model in `base`, with scale * B @ A added at every module, to `directory`, which exists and is empty.

    Factors of a head that is tied to the embedding change both, as they do in training.

    Args:
        factors: `<module>.lora_A.weight` (r, inputs) and `<module>.lora_B.weight` (outputs, r) of every module.
        dtype: float32 is exact; bfloat16 is half as large, and rounds small changes away.
    """
    is_tied = read_model_folder(base, base.name).head_is_tied
    for path in weight_files(base, base.name):
        weights = load_float32(path.read_bytes())
        if is_tied:
            weights.pop(_HEAD, None)  # a stale copy, which programs that read the config ignore
        for name, weight in weights.items():
            change = _change(factors, _HEAD if is_tied and name == _EMBEDDING else name)
            if change is not None:
                weights[name] = weight + np.float32(scale) * change
        _write_weights(directory / path.name, weights, dtype)
    _write_config(base, directory, dtype, is_tied=is_tied)
    for path in base.iterdir():
        if path.is_file() and path.name != "config.json" and not path.name.endswith(_WEIGHT_SUFFIXES):
            shutil.copyfile(path, directory / path.name)
    _write_index(base, directory, without_head=is_tied)


def merged_bytes(shapes: Mapping[str, tuple[int, ...]], dtype: MergedDtype) -> int:
    """Approximate size on disk, in bytes, of a merged model with weights of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values()) * _WIDTHS[dtype]


def _change(factors: Mapping[str, np.ndarray], weight_name: str) -> np.ndarray | None:
    module = weight_name.removesuffix(".weight")
    a, b = (factors.get(f"{module}.lora_{factor}.weight") for factor in "AB")
    return None if a is None or b is None else b @ a


def _write_weights(path: Path, weights: Mapping[str, np.ndarray], dtype: MergedDtype) -> None:
    stored = {
        name: to_bfloat16_bits(weight) if dtype == "bfloat16" else np.ascontiguousarray(weight, "<f4")
        for name, weight in weights.items()
    }
    specs = {
        name: TensorSpec(dtype=dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
        for name, array in stored.items()
    }
    try:
        serialize_file(specs, path, {"format": "pt"})  # transformers refuses files without this note
    except SafetensorError as error:
        raise _as_os_error(error) from error


def _as_os_error(error: SafetensorError) -> Exception:
    """The OSError that the message of a safetensors error quotes, if it does, else `error` itself."""
    told = re.search(r"os error (\d+)", str(error))
    return error if told is None else OSError(int(told[1]), os.strerror(int(told[1])))


def _write_config(base: Path, directory: Path, dtype: MergedDtype, *, is_tied: bool) -> None:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)  # how older versions spell it
    config["dtype"] = dtype
    config["tie_word_embeddings"] = is_tied  # some files say yes and hold two different weights
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_index(base: Path, directory: Path, *, without_head: bool) -> None:
    if (base / WEIGHTS_FILE).is_file():
        return
    index = json.loads((base / WEIGHTS_INDEX_FILE).read_text(encoding="utf-8"))
    if without_head:
        index["weight_map"].pop(_HEAD, None)
    index["metadata"] = {"total_size": sum(path.stat().st_size for path in directory.glob("*.safetensors"))}
    (directory / WEIGHTS_INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
