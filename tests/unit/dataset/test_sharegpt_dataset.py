"""Conversations: both dialects, with and without a chat template, and weights on the assistant's words alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from eztinker.dataset import ShareGPTDataset
from eztinker.errors import DataDamaged, DataNotFound, InvalidInput
from tests.tiny_tokenizers import CHATML, LAST_THINKS, LLAMA3, byte_tokenizer, num_start_tokens

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


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(CHATML)


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
    tokenizer = byte_tokenizer(None)
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
    with pytest.raises(DataDamaged, match=r"Line 1 .* does not show turn 3 behind the header"):
        ShareGPTDataset(path, byte_tokenizer(FORGETFUL))


def test_a_templates_own_refusal_is_passed_on_with_the_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": TWO_ROUNDS})
    with pytest.raises(DataDamaged, match=r"Line 1 .*No system role"):
        ShareGPTDataset(path, byte_tokenizer(PICKY))


def test_a_template_that_fails_on_a_conversation_is_named_with_the_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": OPENAI_TURNS})
    with pytest.raises(DataDamaged, match=r"Line 1 .*chat template refuses the conversation"):
        ShareGPTDataset(path, byte_tokenizer("{{ messages[0].content + 1 }}"))


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


def sampled_prompt(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerFast) -> str:
    """What the model sees when it is asked for the turn that follows."""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def test_a_template_that_thinks_on_the_last_turn_alone_gives_one_example_per_turn(tmp_path: Path) -> None:
    """Every trained token follows what the model sees when it is sampled; one piece would show it other turns."""
    tokenizer = byte_tokenizer(LAST_THINKS)
    dataset = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", {"messages": TWO_ROUNDS}), tokenizer)
    assert len(dataset) == 2
    for index, (turn, said) in enumerate(((2, "Hello!"), (4, "See you "))):
        spoken_text = f"<think>\n\n</think>\n\n{said}<|im_end|>"
        assert spoken(dataset, index, tokenizer) == spoken_text
        assert (
            text_of(dataset[index]["input_ids"], tokenizer)
            == sampled_prompt(TWO_ROUNDS[:turn], tokenizer) + spoken_text
        )
    assert "Hello!" in text_of(dataset[1]["input_ids"], tokenizer)


def test_thinking_of_earlier_turns_is_not_shown_to_later_ones(tmp_path: Path) -> None:
    rounds = [{**each} for each in TWO_ROUNDS]
    rounds[2]["content"] = "<think>\nA greeting.\n</think>\n\nHello!"
    tokenizer = byte_tokenizer(LAST_THINKS)
    dataset = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", {"messages": rounds}), tokenizer)
    assert spoken(dataset, 0, tokenizer) == "<think>\nA greeting.\n</think>\n\nHello!<|im_end|>"
    assert "A greeting" not in text_of(dataset[1]["input_ids"], tokenizer)


def test_one_round_of_such_a_template_is_one_example(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "chats.jsonl", {"messages": OPENAI_TURNS}, {"messages": TWO_ROUNDS})
    assert len(ShareGPTDataset(path, byte_tokenizer(LAST_THINKS))) == 3
    assert len(ShareGPTDataset(path, byte_tokenizer(LAST_THINKS), max_samples=1)) == 1


def test_a_switched_off_turn_gives_no_example_of_its_own(tmp_path: Path) -> None:
    rounds: list[dict[str, Any]] = [{**each} for each in TWO_ROUNDS]
    rounds[2]["weight"] = 0
    tokenizer = byte_tokenizer(LAST_THINKS)
    dataset = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", {"messages": rounds}), tokenizer)
    assert [spoken(dataset, index, tokenizer) for index in range(len(dataset))] == [
        "<think>\n\n</think>\n\nSee you <|im_end|>"
    ]


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


@pytest.mark.parametrize("starts_with", [None, "<|begin_of_text|>"])
def test_without_a_template_an_example_starts_as_the_tokenizer_starts_any_text(
    starts_with: str | None, tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer(starts_with=starts_with)
    dataset = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", {"messages": OPENAI_TURNS}), tokenizer)
    assert dataset[0]["input_ids"] == tokenizer("User: Hi\n\nAssistant: Hello!<|im_end|>")["input_ids"]
    assert dataset[0]["loss_weights"][0] == 0.0


def test_a_template_that_writes_the_start_token_gets_no_second_one(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(LLAMA3, starts_with="<|begin_of_text|>")
    dataset = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", {"messages": TWO_ROUNDS}), tokenizer)
    assert dataset[0]["input_ids"] == template_tokens(TWO_ROUNDS, tokenizer)
    assert num_start_tokens(dataset[0]["input_ids"], tokenizer) == 1


def test_the_embedded_models_template_gives_its_own_tokens(tmp_path: Path, embedded_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir)
    dataset = ShareGPTDataset(write_jsonl(tmp_path / "chats.jsonl", {"messages": TWO_ROUNDS}), tokenizer)
    assert len(dataset) == 1
    assert dataset[0]["input_ids"] == template_tokens(TWO_ROUNDS, tokenizer)
    assert spoken(dataset, 0, tokenizer) == "Hello!<|im_end|>See you <|im_end|>"


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
