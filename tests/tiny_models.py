"""Base models small enough to make in milliseconds: random weights of every family, with a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

EOS_TOKEN_ID = 256
_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_model(
    directory: Path,
    family: str,
    *,
    tie: bool = False,
    vocab: int = 264,
    hidden: int = 64,
    layers: int = 2,
    seed: int = 0,
    dtype: str = "float32",
    special_tokens: tuple[str, ...] = (),
    **config_overrides: Any,
) -> Path:
    """Write a model of `family` (llama, mistral, qwen2, qwen3) to `directory` in the Hugging Face layout; return it.

    Tokens 0 to 255 stand for one byte each, 256 to 258 and, after them, `special_tokens` for a special token each; the
    rest is never produced by the tokenizer.
    `config_overrides` are fields of the family's transformers config.
    """
    config = AutoConfig.for_model(
        family,
        **{
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": hidden // 2,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": tie,
            "bos_token_id": None,
            "eos_token_id": EOS_TOKEN_ID,
            "initializer_range": 0.1,
        }
        | config_overrides,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    draw_weights(model, config.initializer_range, seed)
    model.save_pretrained(directory)
    _tokenizer(special_tokens).save_pretrained(directory)
    return directory


def draw_weights(model: torch.nn.Module, std: float, seed: int) -> None:
    """Biases and norm weights too: at 0 and 1, as they are born, they would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            mean = 1.0 if name.endswith("norm.weight") else 0.0
            weight.copy_(mean + std * torch.randn(weight.shape, generator=generator))


def _tokenizer(more_tokens: tuple[str, ...]) -> PreTrainedTokenizerFast:
    byte_characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={character: i for i, character in enumerate(byte_characters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (*_SPECIAL_TOKENS, *more_tokens)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
