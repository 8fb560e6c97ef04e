"""One base model: what its folder says about it, and whether it is a folder we serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eztinker.errors import DataDamaged, DataNotFound, Unsupported
from eztinker.types import KNOWN_MODEL_TYPES, Record

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"


class BaseModel(Record, frozen=True):
    """One served base model."""

    name: str
    directory: Path
    """Absolute; holds config.json, tokenizer.json and the weights as safetensors."""
    model_type: str
    vocab_size: int
    context_length: int
    """Tokens of prompt and completion together."""
    eos_token_ids: tuple[int, ...]
    """Any of these ends a completion."""


def read_base_model(name: str, directory: Path) -> BaseModel:
    """What `directory` holds, read from its configs alone; weights are only known to be there.

    Raises:
        DataNotFound: config, weights or tokenizer are missing.
        DataDamaged: a config cannot be read.
        Unsupported: a family the decoder does not know, weights it does not read, or a model that brings code.
    """
    config = _read_json(directory / "config.json", name)
    _check_family(config, name)
    _check_no_code(directory, config, name)
    _check_weights(directory, config, name)
    if not (directory / "tokenizer.json").is_file():
        raise DataNotFound(f"The folder of base model {name!r} has no tokenizer.json; fetch that file too")
    return BaseModel(
        name=name,
        directory=directory.absolute(),
        model_type=config["model_type"],
        vocab_size=_integer(config, "vocab_size", name),
        context_length=_integer(config, "max_position_embeddings", name),
        eos_token_ids=_eos_token_ids(directory, config, name),
    )


def has_all_weights(directory: Path) -> bool:
    """Whether the weights are there as safetensors, every shard of them."""
    if (directory / WEIGHTS_FILE).is_file():
        return True
    return (directory / WEIGHTS_INDEX_FILE).is_file() and not _missing_shards(directory)


def _check_family(config: dict[str, Any], name: str) -> None:
    model_type = config.get("model_type")
    if model_type not in KNOWN_MODEL_TYPES:
        raise Unsupported(
            f"Base model {name!r} is of the family {model_type!r}; families served are {', '.join(KNOWN_MODEL_TYPES)}"
        )


def _check_no_code(directory: Path, config: dict[str, Any], name: str) -> None:
    tokenizer_path = directory / "tokenizer_config.json"
    tokenizer_config = _read_json(tokenizer_path, name) if tokenizer_path.is_file() else {}
    for file_name, content in (("config.json", config), ("tokenizer_config.json", tokenizer_config)):
        if "auto_map" in content:
            raise Unsupported(
                f"Base model {name!r} asks to run Python code of its own (auto_map in {file_name}), "
                "which is never done; serve a model of the plain family instead"
            )


def _check_weights(directory: Path, config: dict[str, Any], name: str) -> None:
    if "quantization_config" in config:
        raise Unsupported(f"The weights of base model {name!r} are quantized; serve its bfloat16 or float32 version")
    if has_all_weights(directory):
        return
    if (directory / WEIGHTS_INDEX_FILE).is_file():
        missing = ", ".join(_missing_shards(directory))
        raise DataNotFound(f"The folder of base model {name!r} lacks {missing}; fetch the missing files")
    pickles = sorted(path.name for suffix in ("bin", "pt", "pth") for path in directory.glob(f"*.{suffix}"))
    if pickles:
        raise Unsupported(
            f"Base model {name!r} has its weights only as pickle files ({pickles[0]}), which can run code when opened; "
            "serve a version with safetensors"
        )
    raise DataNotFound(f"The folder of base model {name!r} has no {WEIGHTS_FILE}; fetch the weights")


def _missing_shards(directory: Path) -> list[str]:
    index = _read_json(directory / WEIGHTS_INDEX_FILE, directory.name)
    shards = sorted(set(index.get("weight_map", {}).values()))
    return [shard for shard in shards if not (directory / shard).is_file()]


def _eos_token_ids(directory: Path, config: dict[str, Any], name: str) -> tuple[int, ...]:
    """Chat models list more end tokens in generation_config.json than config.json has."""
    path = directory / "generation_config.json"
    generation_config = _read_json(path, name) if path.is_file() else {}
    ids = generation_config.get("eos_token_id", config.get("eos_token_id"))
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (ids,)


def _integer(config: dict[str, Any], key: str, name: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise DataDamaged(f"config.json of base model {name!r} must give {key} as a positive integer, got {value!r}")
    return value


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataNotFound(
            f"The folder of base model {name!r} has no {path.name}; expected a model in the Hugging Face layout"
        ) from error
    except (OSError, ValueError) as error:
        raise DataDamaged(f"{path.name} of base model {name!r} cannot be read ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise DataDamaged(f"{path.name} of base model {name!r} must hold a JSON object; fetch it again")
    return content
