from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from eztinker.rl.sampling import chat_prompt, encode, stop_token_id, trimmed


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def completion_of(tokenizer: PreTrainedTokenizerBase, tokens: list[int], *stop: str):
    return trimmed(tokenizer, tokens, [-float(place) for place in range(len(tokens))], stop)


def test_a_completion_ends_before_the_end_of_sequence_token(tokenizer: PreTrainedTokenizerBase):
    tokens = [*encode(tokenizer, " 12"), stop_token_id(tokenizer), *encode(tokenizer, "junk")]
    completion = completion_of(tokenizer, tokens, "\n")
    assert (completion.text, completion.is_finished) == (" 12", True)
    assert completion.tokens == encode(tokenizer, " 12")
    assert completion.logprobs == [0.0, -1.0, -2.0]


def test_any_special_token_ends_a_completion(tokenizer: PreTrainedTokenizerBase):
    (end_of_turn,) = encode(tokenizer, "<|im_end|>")
    assert end_of_turn != stop_token_id(tokenizer)
    completion = completion_of(tokenizer, [*encode(tokenizer, "7"), end_of_turn])
    assert (completion.text, completion.is_finished) == ("7", True)


def test_stop_text_and_what_follows_is_cut_off(tokenizer: PreTrainedTokenizerBase):
    completion = completion_of(tokenizer, encode(tokenizer, " 12.\nQuestion: what"), "\nQuestion:", "##")
    assert (completion.text, completion.is_finished) == (" 12.\nQuestion", True)


def test_a_completion_at_the_token_limit_is_whole_and_unfinished(tokenizer: PreTrainedTokenizerBase):
    completion = completion_of(tokenizer, encode(tokenizer, " 5 + 7 ="), "\n")
    assert (completion.text, completion.is_finished) == (" 5 + 7 =", False)


def test_a_question_in_the_chat_template_invites_the_reply(tokenizer: PreTrainedTokenizerBase):
    assert chat_prompt(tokenizer, "2 + 2?") == "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
