"""One base model: its properties, read from its folder, and whether it can be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eztinker.errors import DataDamaged, DataNotFound, Unsupported
from eztinker.model_files.decoder_config import read_config
from eztinker.model_files.folder import EMBEDDING, read_model_folder
from eztinker.model_files.json_fields import read_json
from eztinker.model_files.tensor_files import WEIGHTS_FILE, WEIGHTS_INDEX_FILE, has_all_weights, missing_shards
from eztinker.model_files.tokenizer_file import num_token_ids
from eztinker.types import Record


class BaseModel(Record, frozen=True):
    """One served base model."""

    name: str
    directory: Path
    """Absolute path of the folder with config.json, tokenizer.json and the weights as safetensors."""
    model_type: str
    vocab_size: int
    context_length: int
    """Most tokens of prompt and completion together."""
    eos_token_ids: tuple[int, ...]
    """End-of-sequence tokens, any of which ends a completion."""


def read_base_model(name: str, directory: Path) -> BaseModel:
    """Read the base model in `directory` from its configs and the headers of its weights, which must match.

    Raises:
        DataNotFound: config, weights or tokenizer are missing.
        DataDamaged: a file cannot be read, or config, weights and tokenizer are not of one model.
        Unsupported: the decoder does not support the family, a variant or the format of the weights, or the model
            needs code of its own.
    """
    config = read_config(directory, name)
    _check_no_code(directory, name)
    _check_weights(directory, name)
    read_model_folder(directory, name)
    _check_tokenizer(directory, config.vocab_size, name)
    return BaseModel(
        name=name,
        directory=directory.absolute(),
        model_type=config.model_type,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        eos_token_ids=_eos_token_ids(directory, config.vocab_size, name),
    )


def _check_no_code(directory: Path, name: str) -> None:
    config = read_json(directory / "config.json", name=name)
    tokenizer_config = _read_optional_json(directory / "tokenizer_config.json", name)
    for file_name, content in (("config.json", config), ("tokenizer_config.json", tokenizer_config)):
        if "auto_map" in content:
            raise Unsupported(
                f"Base model {name!r} asks to run Python code of its own (auto_map in {file_name}), "
                "which is never done; serve a model of the plain family instead"
            )


def _check_weights(directory: Path, name: str) -> None:
    if has_all_weights(directory, name):
        return
    if (directory / WEIGHTS_INDEX_FILE).is_file():
        missing = ", ".join(missing_shards(directory, name))
        raise DataNotFound(f"The folder of base model {name!r} lacks {missing}; fetch the missing files")
    pickles = sorted(path.name for suffix in ("bin", "pt", "pth") for path in directory.glob(f"*.{suffix}"))
    if pickles:
        raise Unsupported(
            f"Base model {name!r} has its weights only as pickle files ({pickles[0]}), which can run code when opened; "
            "serve a version with safetensors"
        )
    raise DataNotFound(f"The folder of base model {name!r} has no {WEIGHTS_FILE}; fetch the weights")


def _check_tokenizer(directory: Path, vocab_size: int, name: str) -> None:
    if (needed := num_token_ids(directory, name)) > vocab_size:
        raise DataDamaged(
            f"The tokenizer of base model {name!r} gives ids up to {needed - 1}, but {EMBEDDING} has {vocab_size} "
            "rows; serve tokenizer and weights of one model"
        )


def _eos_token_ids(directory: Path, vocab_size: int, name: str) -> tuple[int, ...]:
    """End-of-sequence tokens; chat models list more of them in generation_config.json than in config.json."""
    found = []
    for file_name in ("generation_config.json", "config.json"):
        content = _read_optional_json(directory / file_name, name)
        if "eos_token_id" in content:
            found.append(_token_ids(content["eos_token_id"], vocab_size, f"{file_name} of base model {name!r}"))
    return found[0] if found else ()


def _token_ids(value: Any, vocab_size: int, where: str) -> tuple[int, ...]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for each in ids:
        if type(each) is not int or not 0 <= each < vocab_size:
            raise DataDamaged(
                f"{where} must give eos_token_id as ids from 0 to {vocab_size - 1}, got {repr(each)[:100]}; correct it"
            )
    return tuple(ids)


def _read_optional_json(path: Path, name: str) -> dict[str, Any]:
    return read_json(path, name=name) if path.is_file() else {}
