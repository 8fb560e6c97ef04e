"""Ropes of model files, beside what transformers infers from the same config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from eztinker.errors import DataDamaged, InvalidInput, Unsupported
from eztinker.model_files.json_fields import JsonFields
from eztinker.model_files.rope_config import DEFAULT_THETA, RopeConfig, read_rope

HEAD_DIM, CONTEXT = 8, 64


def read(**config: Any) -> RopeConfig:
    return read_rope(JsonFields(config, where="config.json"), HEAD_DIM, CONTEXT)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def test_a_config_that_says_nothing_has_the_default():
    expected = RopeConfig(head_dim=HEAD_DIM, theta=DEFAULT_THETA, kind="default", scaling={})
    assert read() == read(rope_scaling=None) == read(rope_scaling={}, rope_parameters={}) == expected
    assert read(rope_theta=500).theta == 500.0


def test_all_three_spellings_are_the_same_rope():
    older = read(rope_theta=5.0, rope_scaling={"type": "linear", "factor": 4})
    assert older == read(rope_theta=5.0, rope_scaling={"rope_type": "linear", "factor": 4})
    assert older == read(rope_parameters={"rope_type": "linear", "factor": 4, "rope_theta": 5.0})
    assert older.scaling == {"factor": 4.0}


def test_scaling_goes_before_parameters_unless_it_is_empty():
    linear = {"rope_type": "linear", "factor": 4}
    assert read(rope_scaling=linear, rope_parameters={"rope_type": "default"}).kind == "linear"
    assert read(rope_scaling={}, rope_parameters=linear).kind == "linear"


@pytest.mark.parametrize(
    "given", [{}, {"attention_factor": 0.7}, {"mscale": 1.2, "mscale_all_dim": 0.8}, {"mscale": 2}]
)
@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_scores_of_yarn_are_scaled_as_in_transformers(factor: float, given: dict[str, float]):
    block = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 16, "rope_theta": 1e4} | given
    config = LlamaConfig(
        hidden_size=HEAD_DIM, num_attention_heads=1, max_position_embeddings=CONTEXT, rope_parameters=block
    )
    _, expected = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    assert read(rope_parameters=block).scaling["attention_factor"] == pytest.approx(expected)


def test_the_context_before_it_was_extended_is_read_from_beside_the_block_first():
    assert read(rope_scaling={"rope_type": "llama3"} | LLAMA3).scaling == LLAMA3
    beside = read(rope_scaling={"rope_type": "llama3"} | LLAMA3, original_max_position_embeddings=16)
    assert beside.scaling["original_max_position_embeddings"] == 16
    block = {key: value for key, value in LLAMA3.items() if not key.startswith("original")}
    assert read(rope_scaling={"rope_type": "llama3"} | block).scaling["original_max_position_embeddings"] == CONTEXT


@pytest.mark.parametrize(
    ("block", "kind", "sentence"),
    [
        ({"rope_type": "dynamic"}, Unsupported, "rope type 'dynamic' is not supported; supported are default"),
        ({"rope_type": "linear", "factor": 2, "beta_fast": 1}, Unsupported, "'beta_fast' is not known .* has factor"),
        ({"rope_type": "default", "factor": 2}, Unsupported, "'factor' is not known .* none of its own"),
        ({"rope_type": "linear"}, DataDamaged, "factor"),
        ({"rope_type": "linear", "factor": 0}, DataDamaged, "above 0"),
        ({"rope_type": "linear", "factor": 2, "partial_rotary_factor": 0.5}, Unsupported, "all channels must turn"),
        ({"rope_type": "proportional", "partial_rotary_factor": 1.5}, InvalidInput, "at most 1"),
        ({"rope_type": "yarn", "factor": 2, "rope_theta": 1}, DataDamaged, "rope_theta .* above 1"),
        ({"rope_type": "llama3"} | LLAMA3 | {"high_freq_factor": 1}, DataDamaged, "high_freq_factor .* above 1"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(block: dict[str, Any], kind: type[Exception], sentence: str):
    with pytest.raises(kind, match=sentence):
        read(rope_scaling=block)
