"""A model's shape as its config says it, beside transformers' own defaults for the family."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from eztinker.errors import DataDamaged, Unsupported
from eztinker.model_files.decoder_config import FAMILIES, DecoderConfig, parse_config

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}


def read(family: str = "llama", **fields: Any) -> DecoderConfig:
    return parse_config({"model_type": family} | SMALL | fields, "x")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_file_leaves_out_is_what_transformers_takes(family: str):
    ours, theirs = parse_config({"model_type": family}, "x"), AutoConfig.for_model(family)
    assert ours.vocab_size == theirs.vocab_size
    assert (ours.hidden_size, ours.intermediate_size) == (theirs.hidden_size, theirs.intermediate_size)
    assert (ours.num_layers, ours.num_heads) == (theirs.num_hidden_layers, theirs.num_attention_heads)
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.context_length == theirs.max_position_embeddings
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings


def test_biases_and_norms_are_those_of_the_family():
    assert [(each.qkv_bias, each.output_bias, each.mlp_bias, each.qk_norm) for each in map(read, FAMILIES)] == [
        (False, False, False, False),  # llama
        (False, False, False, False),  # mistral
        (True, False, False, False),  # qwen2
        (False, False, False, True),  # qwen3
    ]
    llama = read(attention_bias=True, mlp_bias=True)
    assert (llama.qkv_bias, llama.output_bias, llama.mlp_bias) == (True, True, True)


@pytest.mark.parametrize(
    ("family", "fields", "windows"),
    [
        ("llama", {}, (None,) * 3),
        ("mistral", {}, (4096,) * 3),
        ("mistral", {"sliding_window": None}, (None,) * 3),
        ("mistral", {"sliding_window": 5, "layer_types": ["full_attention"] + ["sliding_attention"] * 2}, (None, 5, 5)),
        ("qwen2", {"sliding_window": 5}, (None,) * 3),
        ("qwen2", {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1}, (None, 5, 5)),
        ("qwen3", {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 0}, (5, 5, 5)),
    ],
)
def test_each_layer_has_the_window_that_its_family_gives_it(family: str, fields: dict[str, Any], windows: tuple):
    assert read(family, **fields).sliding_windows == windows


@pytest.mark.parametrize(
    ("family", "fields", "sentence"),
    [
        ("gpt2", {}, "of the family 'gpt2'; families served are"),
        ("llama", {"hidden_act": "gelu"}, "'gelu'"),
        ("llama", {"is_causal": False}, "not causal"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantized"),
        ("llama", {"layer_types": ["sliding_attention"] * 3}, "this family has none"),
        ("qwen2", {"layer_types": ["linear_attention"] * 3}, "'linear_attention'"),
        ("mistral", {"sliding_window": None, "layer_types": ["sliding_attention"] * 3}, "there is no window"),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused_by_name(family: str, fields: dict[str, Any], sentence: str):
    with pytest.raises(Unsupported, match=sentence):
        read(family, **fields)


@pytest.mark.parametrize(
    ("family", "fields", "sentence"),
    [
        ("llama", {"hidden_size": 33}, "no multiple of num_attention_heads"),
        ("llama", {"num_key_value_heads": 3}, "4 attention heads .* cannot share 3"),
        ("qwen2", {"head_dim": 7}, "an even number of channels, got 7"),
        ("qwen3", {"head_dim": None}, "head_dim of a qwen3 model"),
        ("llama", {"layer_types": ["full_attention"]}, "a list of 3 texts"),
        ("llama", {"vocab_size": 0}, "vocab_size as an integer from 1"),
    ],
)
def test_what_cannot_be_right_is_damaged(family: str, fields: dict[str, Any], sentence: str):
    with pytest.raises(DataDamaged, match=sentence):
        read(family, **fields)
