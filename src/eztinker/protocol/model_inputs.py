"""Model inputs in JSON: a list of chunks, of which only text is supported."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from eztinker.errors import InvalidInput, Unsupported
from eztinker.protocol.json_bodies import MAX_SHOWN_CHARS, Body
from eztinker.protocol.tensors import int64_array

TEXT_CHUNK = "encoded_text"


class ModelInputBody(Body):
    chunks: list[dict[str, Any]]
    """Chunks, not yet validated, so that an image or audio chunk is refused by its type and not for its fields."""


class TextChunkBody(Body):
    tokens: list[int]
    type: str = TEXT_CHUNK


def tokens_from_json(model_input: ModelInputBody) -> np.ndarray:
    """The tokens of all chunks, int64 (N,).

    Raises:
        Unsupported: a chunk is not text.
        InvalidInput: a token is not a 64-bit integer.
    """
    tokens: list[int] = []
    for chunk in model_input.chunks:
        kind = chunk.get("type", TEXT_CHUNK)
        if kind != TEXT_CHUNK:
            shown = str(kind)[:MAX_SHOWN_CHARS]
            raise Unsupported(f"A model_input may hold text only; {shown!r} chunks are not supported")
        tokens += _text_chunk(chunk).tokens
    try:
        return int64_array(tokens)
    except OverflowError as error:
        raise InvalidInput("A token id does not fit 64 bits", field="model_input") from error


def _text_chunk(chunk: dict[str, Any]) -> TextChunkBody:
    try:
        return msgspec.convert(chunk, TextChunkBody)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"A text chunk does not fit: {error}", field="model_input") from error
