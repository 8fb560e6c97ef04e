"""Start tokens that a tokenizer adds before a text, such as Llama 3's <|begin_of_text|>."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def start_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that `tokenizer(text)` adds before those of the text; usually none, or one start token."""
    probe = "a"
    bare = tokenizer.encode(probe, add_special_tokens=False)
    framed = tokenizer.encode(probe)
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start]
    return []


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenize the start of a sequence, with the tokenizer's start token exactly once.

    A text that opens with a special token, as chat templates write it, gets no start token: it has its own.
    """
    tokens = tokenizer.encode(text, add_special_tokens=False)
    added = tokenizer.added_tokens_decoder
    if tokens and tokens[0] in added and added[tokens[0]].special:
        return tokens
    return start_token_ids(tokenizer) + tokens
