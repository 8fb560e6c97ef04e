"""Prompts start as the tokenizer starts any text: with its start token once, or with none if it sets none."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from eztinker.dataset import ArithmeticDataset
from eztinker.dataset.start_tokens import encode_prompt, start_token_ids
from eztinker.rl.sampling import chat_prompt
from tests.tiny_tokenizers import LLAMA3, byte_tokenizer, num_start_tokens

BOS = "<|begin_of_text|>"


@pytest.mark.parametrize("starts_with", [None, BOS])
def test_plain_and_few_shot_prompts_are_what_the_tokenizer_gives(starts_with: str | None) -> None:
    tokenizer = byte_tokenizer(starts_with=starts_with)
    dataset = ArithmeticDataset(max_samples=1)
    question, prompt, _ = dataset.get_example_question(0)
    for text in (prompt, dataset.format_few_shot_prompt(question), ""):
        assert encode_prompt(tokenizer, text) == tokenizer(text)["input_ids"]
        assert num_start_tokens(encode_prompt(tokenizer, text), tokenizer) == (1 if starts_with else 0)


def test_a_prompt_that_spells_its_start_token_gets_no_second_one() -> None:
    tokenizer = byte_tokenizer(LLAMA3, starts_with=BOS)
    for prompt in (f"{BOS}Question:", chat_prompt(tokenizer, "2 + 2?")):
        assert encode_prompt(tokenizer, prompt) == tokenizer.encode(prompt, add_special_tokens=False)
        assert num_start_tokens(encode_prompt(tokenizer, prompt), tokenizer) == 1


def test_what_a_tokenizer_sets_behind_a_text_is_no_part_of_a_prompt() -> None:
    from tokenizers import processors

    tokenizer = byte_tokenizer(starts_with=BOS)
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (BOS, "<|im_end|>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A <|im_end|>", special_tokens=ids
    )
    assert start_token_ids(tokenizer) == [tokenizer.bos_token_id]
    assert encode_prompt(tokenizer, "Hi") == tokenizer("Hi")["input_ids"][:-1]


def test_the_embedded_model_starts_with_the_text_itself(embedded_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_dir)
    assert encode_prompt(tokenizer, "Question: 2 + 2?") == tokenizer("Question: 2 + 2?")["input_ids"]
