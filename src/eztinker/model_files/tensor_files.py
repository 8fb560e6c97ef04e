"""Tensors of a model's folder, listed from the headers of its safetensors files without reading any weights."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from eztinker.errors import DataDamaged, DataNotFound
from eztinker.model_files.json_fields import read_json

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000
"""Longest header, by the limit of the format itself."""
MAX_SHOWN_CHARS = 200
"""Characters of a tensor's name that an error message quotes."""
_PLAIN_NAME = re.compile(r"[^/\\\x00]+\.safetensors")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Location, dtype and shape of a tensor in a file."""

    file: Path
    dtype: str
    """Dtype as the format spells it, such as BF16."""
    shape: tuple[int, ...]
    start: int
    """Offset of the first byte in the file."""
    num_bytes: int


def has_all_weights(directory: Path, name: str) -> bool:
    """Whether the weights of base model `name` are present as safetensors, with every shard."""
    if (directory / WEIGHTS_FILE).is_file():
        return True
    return (directory / WEIGHTS_INDEX_FILE).is_file() and not missing_shards(directory, name)


def missing_shards(directory: Path, name: str) -> list[str]:
    """Files that the index of base model `name` lists and the folder lacks."""
    return [shard for shard in sorted(set(_weight_map(directory, name).values())) if not (directory / shard).is_file()]


def weight_files(directory: Path, name: str) -> list[Path]:
    """Safetensors files of a model: the single file if there is one, else the shards that its index lists."""
    if (directory / WEIGHTS_FILE).is_file() or not (directory / WEIGHTS_INDEX_FILE).is_file():
        return [directory / WEIGHTS_FILE]
    return [directory / shard for shard in sorted(set(_weight_map(directory, name).values()))]


def stored_tensors(directory: Path, name: str) -> dict[str, StoredTensor]:
    """Every tensor of base model `name` in `directory`.

    Raises:
        DataNotFound: a file is missing.
        DataDamaged: a file is truncated or no safetensors file, or the index does not match the files.
    """
    tensors: dict[str, StoredTensor] = {}
    files = weight_files(directory, name)
    for path in files:
        for tensor_name, tensor in _tensors_in(path, name).items():
            if tensor_name in tensors:
                raise DataDamaged(
                    f"The folder of base model {name!r} has {tensor_name[:MAX_SHOWN_CHARS]} twice, in "
                    f"{tensors[tensor_name].file.name} and in {path.name}; fetch the model again"
                )
            tensors[tensor_name] = tensor
    if files != [directory / WEIGHTS_FILE]:
        for tensor_name, shard in _weight_map(directory, name).items():
            if tensor_name not in tensors or tensors[tensor_name].file.name != shard:
                raise DataDamaged(
                    f"{WEIGHTS_INDEX_FILE} of base model {name!r} says that {tensor_name[:MAX_SHOWN_CHARS]} is in "
                    f"{shard}, which it is not; fetch the model again"
                )
    return tensors


def _weight_map(directory: Path, name: str) -> dict[str, str]:
    weight_map = read_json(directory / WEIGHTS_INDEX_FILE, name=name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataDamaged(
            f"{WEIGHTS_INDEX_FILE} of base model {name!r} must have a weight_map with the file of every tensor; "
            "fetch it again"
        )
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _PLAIN_NAME.fullmatch(shard):
            raise DataDamaged(
                f"{WEIGHTS_INDEX_FILE} of base model {name!r} lists {str(shard)[:MAX_SHOWN_CHARS]!r}, but weights must "
                "be .safetensors files in the model's own folder; fetch it again"
            )
    return weight_map


def _tensors_in(path: Path, name: str) -> dict[str, StoredTensor]:
    try:
        with path.open("rb") as file:
            return _read_header(file, path)
    except FileNotFoundError as error:
        raise DataNotFound(f"The folder of base model {name!r} lacks {path.name}; fetch the missing file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataDamaged(
            f"{path.name} of base model {name!r} is damaged or not a safetensors file ({error}); fetch it again"
        ) from error


def _read_header(file: BinaryIO, path: Path) -> dict[str, StoredTensor]:
    file_bytes = path.stat().st_size
    header_bytes = int.from_bytes(file.read(8), "little")
    if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, file_bytes - 8):
        raise ValueError(f"its header cannot have {header_bytes} bytes in a file of {file_bytes}")
    header = json.loads(file.read(header_bytes))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    data_start = 8 + header_bytes
    tensors = {
        tensor_name: _tensor(tensor_name, entry, path, data_start)
        for tensor_name, entry in header.items()
        if tensor_name != "__metadata__"
    }
    end = data_start
    for tensor_name, tensor in sorted(tensors.items(), key=lambda each: (each[1].start, each[1].num_bytes)):
        if tensor.start != end:
            raise ValueError(f"{tensor_name[:MAX_SHOWN_CHARS]} does not begin where the tensor before it ends")
        end += tensor.num_bytes
    if end != file_bytes:
        raise ValueError(f"it has {file_bytes} bytes and its header tells of {end}")
    return tensors


def _tensor(tensor_name: str, entry: Any, path: Path, data_start: int) -> StoredTensor:
    shown = tensor_name[:MAX_SHOWN_CHARS]
    if not isinstance(entry, dict):
        raise ValueError(f"its header says nothing of {shown}")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"its header has no shape and place of {shown}")
    start, end = offsets
    num_bytes = end - start
    # dtypes that are not in the table (of 4 and 6 bits) are refused by name where they are needed
    if num_bytes < 0 or (isinstance(dtype, str) and math.prod(shape) * DTYPE_BYTES.get(dtype, 0) not in (0, num_bytes)):
        raise ValueError(f"{shown} of type {str(dtype)[:20]} and shape {shape[:8]} cannot take {num_bytes} bytes")
    return StoredTensor(path, str(dtype)[:20], tuple(shape), data_start + start, num_bytes)


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
