"""Number of token ids of a model's tokenizer, from its `tokenizer.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eztinker.errors import DataDamaged, DataNotFound
from eztinker.model_files.json_fields import read_json

TOKENIZER_FILE = "tokenizer.json"


def num_token_ids(directory: Path, name: str) -> int:
    """One more than the largest id of the tokenizer of base model `name`.

    Raises:
        DataNotFound: there is no tokenizer in this format.
        DataDamaged: the file is not a tokenizer.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise DataNotFound(f"The folder of base model {name!r} has no {TOKENIZER_FILE}; fetch that file too")
    content = read_json(path, name=name)
    try:
        ids = [*_vocabulary_ids(content["model"]["vocab"]), *(token["id"] for token in content.get("added_tokens", []))]
        if not all(type(each) is int and each >= 0 for each in ids):
            raise ValueError("an id is no number")
        return max(ids) + 1
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataDamaged(
            f"{TOKENIZER_FILE} of base model {name!r} lists no tokens with their ids; fetch it again, or save the "
            "tokenizer in the fast format"
        ) from error


def _vocabulary_ids(vocabulary: Any) -> list[Any]:
    """Ids of a vocabulary, which is a list by id in unigram tokenizers and maps tokens to ids in all others."""
    return list(range(len(vocabulary))) if isinstance(vocabulary, list) else list(vocabulary.values())
