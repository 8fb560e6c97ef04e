"""Conversations: both dialects, with and without a chat template, and weights on the assistant's words alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eztinker.dataset import ShareGPTDataset
from eztinker.errors import DataDamaged, DataNotFound, InvalidInput

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = CHATML.replace("{{ message.content }}", "{{ message.content if loop.last else '...' }}")
PICKY = CHATML.replace(
    "{% for", "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}{% for", 1
)

SHAREGPT_TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
OPENAI_TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
TWO_ROUNDS = [
    {"role": "system", "content": "Be kind."},
    *OPENAI_TURNS,
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you "},
]


def make_tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """One token per byte, plus the two ChatML tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    fast.chat_template = chat_template
    return fast


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(CHATML)


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


@pytest.mark.parametrize(
    "record", [{"conversations": SHAREGPT_TURNS}, {"messages": OPENAI_TURNS}, {"id": 7, "conversations": OPENAI_TURNS}]
)
def test_both_dialects_give_the_templates_tokens_with_loss_on_the_reply_and_its_end(
    record: dict, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    dataset = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", record), tokenizer)
    assert dataset[0]["input_ids"] == template_tokens(OPENAI_TURNS, tokenizer)
    assert spoken(dataset, 0, tokenizer) == "Hello!<|im_end|>"


def test_every_assistant_turn_carries_loss_and_nothing_else_does(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    dataset = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", {"messages": TWO_ROUNDS}), tokenizer)
    assert dataset[0]["input_ids"] == template_tokens(TWO_ROUNDS, tokenizer)
    assert spoken(dataset, 0, tokenizer) == "Hello!<|im_end|>See you <|im_end|>"


def test_without_a_template_turns_are_labelled_and_the_reply_ends_with_the_end_token(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(None)
    dataset = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", {"messages": TWO_ROUNDS}), tokenizer)
    assert text_of(dataset[0]["input_ids"], tokenizer) == (
        "System: Be kind.\n\nUser: Hi\n\nAssistant: Hello!<|im_end|>\n\nUser: Bye\n\nAssistant: See you <|im_end|>"
    )
    assert spoken(dataset, 0, tokenizer) == " Hello!<|im_end|> See you <|im_end|>"


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


BAD_LINES = {
    "{": "JSON object",
    '"text"': "JSON object",
    "{}": "'conversations' or 'messages'",
    '{"messages": []}': "'conversations' or 'messages'",
    '{"messages": [3]}': "turn 1 is not an object",
    '{"messages": [{"role": "critic", "content": "Hm"}]}': "turn 1 is from 'critic'",
    '{"messages": [{"role": ["user"], "content": "Hm"}]}': "turn 1 is from",
    '{"messages": [{"role": "user", "content": ""}]}': "turn 1 has no text",
    '{"messages": [{"role": "user", "content": null}]}': "turn 1 has no text",
    '{"messages": [{"role": "user", "content": "Hi"}]}': "no assistant turn",
    '{"conversations": [{"from": "gpt", "value": "Hi"}]}': "before any user turn",
    json.dumps({"messages": [{"role": "user", "content": "Hi" * 100}, OPENAI_TURNS[1]]}): "within the first 100 tokens",
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.items())
def test_a_bad_line_is_named_with_its_number_or_left_out_and_counted(
    line: str, reason: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    good = {"messages": OPENAI_TURNS}
    path = write_jsonl(tmp_path / "chats.jsonl", good, "", line, good)
    with pytest.raises(DataDamaged, match=rf"Line 3 of .*chats\.jsonl: .*{reason}"):
        ShareGPTDataset(path, tokenizer, max_length=100)
    tolerant = ShareGPTDataset(path, tokenizer, max_length=100, strict=False)
    assert (len(tolerant), tolerant.num_skipped) == (2, 1)


def test_a_template_that_rewrites_earlier_turns_is_refused_rather_than_mislabelled(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": TWO_ROUNDS})
    with pytest.raises(DataDamaged, match=r"Line 1 .* rewrites turn 3"):
        ShareGPTDataset(path, make_tokenizer(FORGETFUL))


def test_a_templates_own_refusal_is_passed_on_with_the_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": TWO_ROUNDS})
    with pytest.raises(DataDamaged, match=r"Line 1 .*No system role"):
        ShareGPTDataset(path, make_tokenizer(PICKY))


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
    with pytest.raises(DataDamaged, match=r"torn\.json starts like a JSON array"):
        ShareGPTDataset(tmp_path / "torn.json", tokenizer)
    (tmp_path / "latin.jsonl").write_bytes(b"caf\xe9")
    with pytest.raises(DataDamaged, match=r"latin\.jsonl is not UTF-8"):
        ShareGPTDataset(tmp_path / "latin.jsonl", tokenizer)


def test_bad_arguments_are_named_with_their_value(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": OPENAI_TURNS})
    with pytest.raises(InvalidInput, match="max_length must be at least 1 token, got 0"):
        ShareGPTDataset(path, tokenizer, max_length=0)
