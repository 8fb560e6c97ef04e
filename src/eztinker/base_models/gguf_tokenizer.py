"""The byte-level BPE tokenizer inside a GGUF file, as the two files from which transformers loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

_CONTROL_TOKEN = 3
"""`token_type` of control tokens, such as <|im_end|>."""


def write_tokenizer(metadata: dict[str, Any], directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, chat template included.

    Encoding adds no special tokens, and decoding gives the text back. The few bytes that this vocabulary has no token
    for (some control characters, and bytes that UTF-8 never uses) are dropped, as the original tokenizer drops them.
    """
    build_tokenizer(metadata).save(str(directory / "tokenizer.json"))
    config = _tokenizer_config(metadata)
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def build_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF header with the pre-tokenizer `smollm`: GPT-2's split, and every digit by itself."""
    if metadata["tokenizer.ggml.pre"] != "smollm":
        raise ValueError(f"The GGUF pre-tokenizer {metadata['tokenizer.ggml.pre']!r} is not 'smollm'")
    tokens = metadata["tokenizer.ggml.tokens"]
    left_right_pairs = (merge.split(" ") for merge in metadata["tokenizer.ggml.merges"])
    model = BPE(
        vocab={token: token_id for token_id, token in enumerate(tokens)},
        merges=[(left, right) for left, right in left_right_pairs],
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    return tokenizer


def _tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[metadata["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[metadata["tokenizer.ggml.eos_token_id"]],
        "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        "pad_token": tokens[metadata["tokenizer.ggml.padding_token_id"]],
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
        "chat_template": metadata["tokenizer.chat_template"],
    }
