"""The tokenizer of a GGUF header, loaded by transformers alone."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from eztinker.base_models.gguf_tokenizer import build_tokenizer, write_tokenizer

CONTROL, ORDINARY = 3, 1
LETTERS = [*string.ascii_letters, *string.digits, *string.punctuation, "Ġ", "Ċ"]
METADATA = {
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<|endoftext|>", "<|im_end|>", *LETTERS, "he", "Ġhe", "11"],
    "tokenizer.ggml.token_type": [CONTROL] * 2 + [ORDINARY] * (len(LETTERS) + 3),
    "tokenizer.ggml.merges": ["h e", "Ġ he", "1 1"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.padding_token_id": 1,
    "tokenizer.chat_template": "{{ messages[0].content }}<|im_end|>",
    "llama.context_length": 64,
}


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    write_tokenizer(METADATA, tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def test_text_is_split_by_the_merges_and_each_digit_by_itself(loaded: Any):
    tokens = METADATA["tokenizer.ggml.tokens"]
    assert [tokens[each] for each in loaded.encode("he he11")] == ["he", "Ġhe", "1", "1"]
    assert loaded.encode("hE") == [tokens.index("h"), tokens.index("E")]


@pytest.mark.parametrize("text", ["he said: 1,100!", " two  spaces\n", "<|im_end|>he", ""])
def test_decoding_gives_the_text_back_and_encoding_adds_nothing(loaded: Any, text: str):
    assert loaded.decode(loaded.encode(text)) == text


def test_control_tokens_are_whole_and_special(loaded: Any):
    assert loaded.encode("<|im_end|>") == [1]
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|endoftext|>", "<|im_end|>", "<|im_end|>")
    assert loaded.decode([0, *loaded.encode("he")], skip_special_tokens=True) == "he"
    assert loaded.model_max_length == 64


def test_the_chat_template_comes_along(loaded: Any):
    said = [{"role": "user", "content": "he"}]
    assert loaded.apply_chat_template(said, tokenize=False) == "he<|im_end|>"


def test_another_pre_tokenizer_is_refused():
    with pytest.raises(ValueError, match="'gpt-4o' is not 'smollm'"):
        build_tokenizer(METADATA | {"tokenizer.ggml.pre": "gpt-4o"})
