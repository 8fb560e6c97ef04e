"""Conversations from a file: both dialects, bad lines, and the order and number of examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from eztinker.dataset import ShareGPTDataset
from eztinker.errors import DataDamaged, DataNotFound, InvalidInput
from tests.unit.dataset.conversations import (
    OPENAI_TURNS,
    SHAREGPT_TURNS,
    TWO_ROUNDS,
    spoken,
    template_tokens,
    text_of,
    write_jsonl,
)


@pytest.mark.parametrize(
    "record", [{"conversations": SHAREGPT_TURNS}, {"messages": OPENAI_TURNS}, {"id": 7, "conversations": OPENAI_TURNS}]
)
def test_both_dialects_give_the_templates_tokens_with_loss_on_the_reply_and_its_end(
    record: dict, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    dataset = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", record), tokenizer)
    assert dataset[0]["input_ids"] == template_tokens(OPENAI_TURNS, tokenizer)
    assert spoken(dataset, 0, tokenizer) == "Hello!<|im_end|>"


def test_a_json_array_is_read_like_jsonl(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    records = [{"conversations": SHAREGPT_TURNS}, {"messages": TWO_ROUNDS}]
    lines = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", *records), tokenizer)
    (tmp_path / "chats.json").write_text(json.dumps(records, indent=2))
    array = ShareGPTDataset(tmp_path / "chats.json", tokenizer)
    assert list(array) == list(lines)


def test_a_system_prompt_is_given_to_conversations_without_one(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": OPENAI_TURNS}, {"messages": TWO_ROUNDS})
    dataset = ShareGPTDataset(path, tokenizer, system_prompt="Be brief.")
    texts = [text_of(example["input_ids"], tokenizer) for example in dataset]
    assert texts[0].startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert texts[1].startswith("<|im_start|>system\nBe kind.<|im_end|>")


def test_a_long_conversation_keeps_its_beginning(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": TWO_ROUNDS})
    whole = ShareGPTDataset(path, tokenizer)[0]
    cut = ShareGPTDataset(path, tokenizer, max_length=60)[0]
    assert cut["input_ids"] == whole["input_ids"][:60]
    assert cut["loss_weights"] == whole["loss_weights"][:60]


def test_shuffling_is_seeded_and_happens_before_the_cut(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    records = [{"messages": [{"role": "user", "content": str(n)}, OPENAI_TURNS[1]]} for n in range(30)]
    path = write_jsonl(tmp_path / "chats.jsonl", *records)
    in_order = list(ShareGPTDataset(path, tokenizer))
    shuffled = list(ShareGPTDataset(path, tokenizer, shuffle=True, seed=1))
    assert shuffled != in_order
    assert sorted(map(str, shuffled)) == sorted(map(str, in_order))
    assert list(ShareGPTDataset(path, tokenizer, shuffle=True, seed=1, max_samples=10)) == shuffled[:10]
    assert list(ShareGPTDataset(path, tokenizer, max_samples=10)) == in_order[:10]


def test_files_that_cannot_be_read_are_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataNotFound, match=r"absent\.json"):
        ShareGPTDataset(tmp_path / "absent.json", tokenizer)
    (tmp_path / "torn.json").write_text('[{"messages"')
    with pytest.raises(DataDamaged, match=r"Item 1 \(line 1\) of the JSON array in .*torn\.json: .*not JSON"):
        ShareGPTDataset(tmp_path / "torn.json", tokenizer)
    (tmp_path / "latin.jsonl").write_bytes(b"caf\xe9")
    with pytest.raises(DataDamaged, match=r"latin\.jsonl is not UTF-8"):
        ShareGPTDataset(tmp_path / "latin.jsonl", tokenizer)


def test_bad_arguments_are_named_with_their_value(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": OPENAI_TURNS})
    with pytest.raises(InvalidInput, match="max_length must be at least 1 token, got 0"):
        ShareGPTDataset(path, tokenizer, max_length=0)
