"""The decoder computes what transformers computes, for every family and variant it accepts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from eztinker.errors import Unsupported
from eztinker.model_files.decoder_config import FAMILIES as READ_FAMILIES
from eztinker.types import KNOWN_MODEL_TYPES
from tests.oracles import draw_tokens, load_decoder, packed_logits, transformers_logits

FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]

VARIANTS = {
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with one key-value head": ("llama", {"num_key_value_heads": 1}),
    "llama with a key-value head per query head": ("llama", {"num_key_value_heads": 4}),
    "llama with wide heads": ("llama", {"head_dim": 32}),
    "mistral with wide heads": ("mistral", {"head_dim": 32}),
    "mistral with a window": ("mistral", {"sliding_window": 5}),
    "qwen2 with windows in the upper layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "layers": 3},
    ),
    "qwen2 with a window it does not use": ("qwen2", {"use_sliding_window": False, "sliding_window": 5}),
    "qwen3 with wide heads": ("qwen3", {"head_dim": 32}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "qwen3 with windows in the upper layers": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "layers": 3},
    ),
    "another norm epsilon": ("llama", {"rms_norm_eps": 0.1}),
}

ROPES = {
    "another base": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn with its own betas": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    "yarn with its own amplitude": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.5,
    },
}


def assert_equals_transformers(directory: Path, tokens: list[int]) -> None:
    (ours,) = packed_logits(load_decoder(directory), [tokens])
    theirs = transformers_logits(directory, tokens)
    assert theirs.std() > 0.1, "logits this flat would prove nothing"
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_its_own_head_and_a_tied_one(tiny_model: Callable[..., Path], family: str, tie: bool):
    assert_equals_transformers(tiny_model(family, tie=tie), draw_tokens(33))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(tiny_model: Callable[..., Path], variant: str):
    family, options = VARIANTS[variant]
    assert_equals_transformers(tiny_model(family, **options), draw_tokens(33))


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_rope_beyond_its_original_context(tiny_model: Callable[..., Path], family: str, rope: str):
    directory = tiny_model(family, rope_parameters=ROPES[rope], max_position_embeddings=256)
    assert_equals_transformers(directory, draw_tokens(150))


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_sequences_too_long_for_plain_attention(tiny_model: Callable[..., Path], family: str):
    assert_equals_transformers(tiny_model(family, sliding_window=300, layers=1), draw_tokens(1100))


def test_a_rope_nobody_here_knows_is_refused_by_name(tiny_model: Callable[..., Path]):
    directory = tiny_model("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(
        Unsupported, match="'dynamic' is not supported; supported are default, linear, llama3, proportional, yarn"
    ):
        load_decoder(directory)


def test_bfloat16_strays_from_float32_no_further_than_transformers_does(tiny_model: Callable[..., Path]):
    directory, tokens = tiny_model("llama", layers=4, dtype="bfloat16"), draw_tokens(64)
    exact = transformers_logits(directory, tokens)
    (ours,) = packed_logits(load_decoder(directory, torch.bfloat16), [tokens])
    theirs = transformers_logits(directory, tokens, torch.bfloat16)
    assert (ours - exact).square().mean() <= 1.2 * (theirs - exact).square().mean()
    assert not torch.equal(ours, exact)


def test_the_embedded_model_scores_text_as_transformers_does(embedded_model_dir: Path):
    text = "Question: Tom has 5 apples and buys 7 more. How many apples does he have?\nAnswer: 5 + 7 = 12"
    tokens = AutoTokenizer.from_pretrained(embedded_model_dir)(text).input_ids
    (ours,) = packed_logits(load_decoder(embedded_model_dir), [tokens])
    theirs = transformers_logits(embedded_model_dir, tokens)
    scored = torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])
    torch.testing.assert_close(ours.log_softmax(-1)[scored], theirs.log_softmax(-1)[scored], rtol=0, atol=1e-4)
    # Logits here reach 40, and 30 layers of float32 rounding already put either side 1e-4 off float64.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-4)


def test_the_decoder_computes_exactly_the_families_that_catalogs_serve():
    assert set(READ_FAMILIES) == set(KNOWN_MODEL_TYPES)
