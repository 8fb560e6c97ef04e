"""Records of conversations: what is read from them, and what is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from eztinker.dataset import ShareGPTDataset
from eztinker.errors import DataDamaged, InvalidInput
from tests.tiny_tokenizers import CHATML, byte_tokenizer
from tests.unit.dataset.conversations import OPENAI_TURNS, SHAREGPT_TURNS, TWO_ROUNDS, spoken, write_jsonl

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


@pytest.mark.parametrize("switch", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss": False}])
@pytest.mark.parametrize("template", [CHATML, None])
def test_a_turn_that_the_file_switches_off_is_read_and_not_learned(
    switch: dict, template: str | None, tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer(template)
    switched = [*TWO_ROUNDS[:2], {**TWO_ROUNDS[2], **switch}, *TWO_ROUNDS[3:]]
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": TWO_ROUNDS}, {"messages": switched})
    dataset = ShareGPTDataset(path, tokenizer)
    assert dataset[1]["input_ids"] == dataset[0]["input_ids"]
    assert spoken(dataset, 1, tokenizer).strip() == "See you <|im_end|>"


def test_a_systems_words_beside_the_turns_are_its_system_turn(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write_jsonl(
        tmp_path / "chats.jsonl",
        {"messages": TWO_ROUNDS},
        {"system": "Be kind.", "messages": TWO_ROUNDS[1:]},
        {"system": "Be kind.", "messages": TWO_ROUNDS},
        {"system": "", "messages": TWO_ROUNDS[1:]},
    )
    dataset = ShareGPTDataset(path, tokenizer, system_prompt="Be kind.")
    assert dataset[0] == dataset[1] == dataset[2] == dataset[3]


def test_content_in_text_parts_is_their_text(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!", "annotations": []}]
    path = write_jsonl(
        tmp_path / "chats.jsonl",
        {"messages": OPENAI_TURNS},
        {"messages": [OPENAI_TURNS[0], {"role": "assistant", "content": parts, "tool_calls": None}]},
    )
    dataset = ShareGPTDataset(path, tokenizer)
    assert dataset[0] == dataset[1]


ASKED, SAID = OPENAI_TURNS
NOT_LEARNED = {
    "tools": ({"tools": [{"type": "function"}], "messages": OPENAI_TURNS}, "the record has 'tools', which is not supp"),
    "functions": ({"functions": [{"name": "f"}], "messages": OPENAI_TURNS}, "'functions'"),
    "an unknown field": ({"messages": OPENAI_TURNS, "chosen": "x", "rejected": "y"}, "has 'chosen', 'rejected', which"),
    "another prompt": ({"prompt": "Bye", "messages": OPENAI_TURNS}, "'prompt' is not its first turn"),
    "two lists": ({"conversations": SHAREGPT_TURNS, "messages": OPENAI_TURNS}, "both 'conversations' and 'messages'"),
    "two systems": ({"system": "Be rude.", "messages": TWO_ROUNDS}, "'system' and its system turn differ"),
    "a system that is no text": ({"system": ["x"], "messages": OPENAI_TURNS}, "'system' must be text, got a list"),
    "tool calls beside text": ({"messages": [ASKED, {**SAID, "tool_calls": [{"id": "1"}]}]}, "turn 2 has 'tool_calls'"),
    "tool calls alone": (
        {"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        "turn 2 has 'tool_calls'",
    ),
    "a function call": ({"messages": [ASKED, {**SAID, "function_call": {"name": "f"}}]}, "turn 2 has 'function_call'"),
    "a tool's turn": ({"messages": [ASKED, {"role": "tool", "content": "4"}, SAID]}, "turn 2 is from 'tool'; expected"),
    "a developer's turn": ({"messages": [{"role": "developer", "content": "x"}, *OPENAI_TURNS]}, "from 'developer'"),
    "a name": ({"messages": [{**ASKED, "name": "Ann"}, SAID]}, "turn 1 has 'name'"),
    "reasoning": ({"messages": [ASKED, {**SAID, "reasoning_content": "Hm"}]}, "turn 2 has 'reasoning_content'"),
    "a mask": ({"messages": [ASKED, {**SAID, "mask": 1}]}, "turn 2 has 'mask'"),
    "ignore": ({"messages": [ASKED, {**SAID, "ignore": False}]}, "turn 2 has 'ignore'"),
    "a fraction of weight": ({"messages": [ASKED, {**SAID, "weight": 0.5}]}, "turn 2 has weight 0.5; expected 0 or 1"),
    "a negative weight": ({"messages": [ASKED, {**SAID, "weight": -1}]}, "turn 2 has weight -1"),
    "a word for a switch": ({"messages": [ASKED, {**SAID, "train": "false"}]}, "turn 2 has train 'false'"),
    "a weight for the user": ({"messages": [{**ASKED, "weight": 1}, SAID]}, "only the assistant's turns are learned"),
    "all switched off": ({"messages": [ASKED, {**SAID, "weight": 0}]}, "every assistant turn is switched off"),
    "two speakers": ({"messages": [{**ASKED, "from": "gpt"}, SAID]}, "turn 1 has both 'from' and 'role'"),
    "two texts": ({"messages": [{**ASKED, "value": "Ho"}, SAID]}, "turn 1 has both 'value' and 'content'"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, SAID]},
        "turn 1 has a part of type 'image_url'; only parts of type 'text'",
    ),
    "sound beside text": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "input_audio"}]}, SAID]},
        "turn 1 has a part of type 'input_audio'",
    ),
    "a part without a type": ({"messages": [{"role": "user", "content": ["Hi"]}, SAID]}, "a part without a type"),
    "no content": ({"messages": [ASKED, {"role": "assistant", "content": None}]}, "turn 2 has no text"),
    "half a surrogate pair": ('{"messages": [{"role": "user", "content": "x\\ud83d"}]}', "half a surrogate pair"),
    "half a pair in a key": ('{"messages": [], "\\udc00": 1}', "half a surrogate pair"),
    "a key twice": ('{"messages": [], "messages": []}', "the key 'messages' stands twice"),
    "NaN": ('{"messages": [], "id": NaN}', "NaN is no JSON number"),
    "a deep record": ('{"messages": ' + "[" * 5_000 + "]" * 5_000 + "}", "nested too deep"),
    "a list": ("[1]", "expected a JSON object, got a list"),
}


@pytest.mark.parametrize(("record", "reason"), NOT_LEARNED.values(), ids=NOT_LEARNED)
def test_what_would_change_the_lesson_is_refused_by_name_or_left_out_and_counted(
    record: dict | str, reason: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": OPENAI_TURNS}, record)
    with pytest.raises(DataDamaged, match=rf"^Line 2 of .*chats\.jsonl: .*{re.escape(reason)}"):
        ShareGPTDataset(path, tokenizer)
    tolerant = ShareGPTDataset(path, tokenizer, strict=False)
    assert (len(tolerant), tolerant.num_skipped) == (1, 1)


def test_a_system_prompt_that_is_no_text_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": OPENAI_TURNS})
    with pytest.raises(InvalidInput, match="system_prompt has half a surrogate pair at character 3"):
        ShareGPTDataset(path, tokenizer, system_prompt="Be\ud83d")


@pytest.mark.parametrize(
    "note", [{"id": 7, "source": "web", "metadata": {"a": 1}}, {"tools": [], "unknown": None}, {"prompt": "Hi"}]
)
def test_notes_and_empty_fields_change_nothing(note: dict, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": OPENAI_TURNS}, {"messages": OPENAI_TURNS, **note})
    dataset = ShareGPTDataset(path, tokenizer)
    assert dataset[0] == dataset[1]
