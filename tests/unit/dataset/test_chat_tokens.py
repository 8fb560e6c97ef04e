"""Conversations as tokens: those of the chat template, with loss on the assistant's words alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from eztinker.dataset import ShareGPTDataset
from eztinker.errors import DataDamaged
from tests.tiny_tokenizers import CHATML, LAST_THINKS, LLAMA3, byte_tokenizer, num_start_tokens
from tests.unit.dataset.conversations import OPENAI_TURNS, TWO_ROUNDS, spoken, template_tokens, text_of, write_jsonl

FORGETFUL = CHATML.replace("{{ message.content }}", "{{ message.content if loop.last else '...' }}")
PICKY = CHATML.replace(
    "{% for", "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}{% for", 1
)


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
