"""Conversations in both dialects, and what a data set makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from eztinker.dataset import ShareGPTDataset

SHAREGPT_TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
OPENAI_TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
TWO_ROUNDS = [
    {"role": "system", "content": "Be kind."},
    *OPENAI_TURNS,
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you "},
]


def write_jsonl(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return path


def text_of(tokens: list[int], tokenizer: PreTrainedTokenizerFast) -> str:
    text = tokenizer.decode(tokens)
    assert isinstance(text, str)
    return text


def template_tokens(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return tokenizer.apply_chat_template(messages)["input_ids"]  # type: ignore[index, call-overload, return-value]


def spoken(dataset: ShareGPTDataset, index: int, tokenizer: PreTrainedTokenizerFast) -> str:
    """The text of the tokens that carry loss."""
    example = dataset[index]
    assert len(example["input_ids"]) == len(example["loss_weights"])
    assert set(example["loss_weights"]) <= {0.0, 1.0}
    return text_of([t for t, w in zip(example["input_ids"], example["loss_weights"], strict=True) if w], tokenizer)
