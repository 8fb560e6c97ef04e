"""Tokenizers of one token per byte, with the special tokens and chat templates of the families that are served."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LAST_THINKS = (
    "{% for message in messages %}{% set said = message.content %}"
    "{% if message.role == 'assistant' %}"
    "{% if loop.last and '</think>' not in said %}{% set said = '<think>\n\n</think>\n\n' + said %}{% endif %}"
    "{% if not loop.last %}{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% endif %}<|im_start|>{{ message.role }}\n{{ said }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Like Qwen3's: the last turn shows its thinking, or an empty one, and earlier turns lose theirs."""
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n\n{{ message.content | trim }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)


def byte_tokenizer(chat_template: str | None = None, *, starts_with: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer over bytes; its post-processor sets the special token `starts_with` before every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if starts_with:
        tokenizer.add_special_tokens([starts_with])
        start = (starts_with, tokenizer.token_to_id(starts_with))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{starts_with} $A", special_tokens=[start])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=starts_with,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = chat_template
    return fast


def num_start_tokens(tokens: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> int:
    return sum(token == tokenizer.bos_token_id for token in tokens)
