"""Model inputs in JSON: the tokens of all chunks in a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eztinker.errors import InvalidInput, Unsupported
from eztinker.protocol.model_inputs import ModelInputBody, tokens_from_json


def tokens_in(*chunks: dict[str, Any]) -> np.ndarray:
    return tokens_from_json(ModelInputBody(chunks=list(chunks)))


def test_chunks_of_text_are_one_sequence_whether_they_say_what_they_are_or_not():
    tokens = tokens_in({"tokens": [1, 2]}, {"type": "encoded_text", "tokens": []}, {"tokens": [2**63 - 1]})
    assert tokens.tolist() == [1, 2, 2**63 - 1]
    assert tokens.dtype == np.int64
    assert tokens_in().shape == (0,)


@pytest.mark.parametrize("kind", ["image", 7, None, "x" * 10_000])
def test_another_kind_of_chunk_is_refused_by_a_name_of_bounded_length(kind: Any):
    with pytest.raises(Unsupported, match="may hold text only") as refusal:
        tokens_in({"type": kind, "tokens": [1]})
    assert len(refusal.value.message) < 300


@pytest.mark.parametrize("tokens", [[2**63], [-(2**63) - 1], [1, 2**64]])
def test_a_token_beyond_64_bits_is_refused(tokens: list[int]):
    with pytest.raises(InvalidInput, match="does not fit 64 bits") as refusal:
        tokens_in({"tokens": tokens})
    assert refusal.value.field == "model_input"


@pytest.mark.parametrize("chunk", [{}, {"tokens": "12"}, {"tokens": [1.5]}, {"tokens": [None]}, {"tokens": {"a": 1}}])
def test_a_chunk_that_is_not_what_it_should_be_is_refused(chunk: dict[str, Any]):
    with pytest.raises(InvalidInput, match="does not fit"):
        tokens_in(chunk)
