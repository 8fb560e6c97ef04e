"""Every field of peft's LoRA config is honoured, known to change nothing, or refused by name."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest
from peft import LoraConfig

from eztinker.checkpoints.peft_config import HONOURED, WITHOUT_EFFECT, read_peft_config
from eztinker.errors import EZTinkerError, InvalidInput, Unsupported

PLAIN = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}

REFUSED: dict[str, Any] = {
    "fan_in_fan_out": True,
    "modules_to_save": ["lm_head"],
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"q_proj": 2},
    "megatron_config": {"tensor_model_parallel_size": 2},
    "trainable_token_indices": [1, 2],
    "use_dora": True,
    "velora_config": {"num_groups": 2},
    "alora_invocation_tokens": [1, 2],
    "use_qalora": True,
    "monteclora_config": {"num_samples": 2},
    "layer_replication": [[0, 2], [1, 2]],
    "lora_bias": True,
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "use_bdlora": {"nblocks": 2},
    "arrow_config": {"top_k": 2},
    "kasa_config": {"beta": 1},
}
"""A value of each field that changes what is computed."""


def read(**changes: Any):
    return read_peft_config(json.dumps(PLAIN | changes).encode())


def test_no_field_of_peft_is_unknown():
    """A peft that knows more fields fails here; say for each what it does."""
    assert {field.name for field in dataclasses.fields(LoraConfig)} == HONOURED | WITHOUT_EFFECT | REFUSED.keys()
    assert not HONOURED & WITHOUT_EFFECT
    assert not REFUSED.keys() & (HONOURED | WITHOUT_EFFECT)


def test_a_config_that_says_nothing_special_is_read():
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj"]).to_dict()
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    read = read_peft_config(json.dumps(config, default=str).encode())
    assert (read.rank, read.scale, read.base_model, read.ties_head) == (4, 2.0, None, False)


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_changes_what_is_computed_is_refused_by_name(field: str):
    with pytest.raises(Unsupported, match=f"uses {field}, which is not supported"):
        read(**{field: REFUSED[field]})
    for harmless in (None, False, [], {}):
        read(**{field: harmless})


@pytest.mark.parametrize("field", ["of_a_newer_peft", "use_dora_again", "x" * 5000])
def test_a_field_that_nobody_here_knows_is_refused_unless_it_is_off(field: str):
    read(**{field: None})
    with pytest.raises(Unsupported, match=f"uses {field[:100]}, which") as caught:
        read(**{field: {"a": 1}})
    assert len(caught.value.message) < 300


STARTS_THAT_CHANGE_THE_BASE = (
    "pissa",
    "pissa_niter_4",
    "olora",
    "OLoRA",
    "corda",
    "loftq",
    "lora_ga",
    "of_tomorrow",
    "",
)


@pytest.mark.parametrize("start", [*STARTS_THAT_CHANGE_THE_BASE, 5, 1.0, ["pissa"], {}], ids=repr)
def test_a_start_that_changes_the_base_weights_is_refused_by_name(start: Any):
    with pytest.raises(Unsupported, match=r"began with init_lora_weights .*would not compute here"):
        read(init_lora_weights=start)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "lora_ga"])
def test_where_peft_can_convert_a_start_the_sentence_says_so(start: str):
    with pytest.raises(Unsupported, match="path_initial_model_for_weight_conversion"):
        read(init_lora_weights=start)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_a_start_that_leaves_the_base_weights_alone_is_read(start: Any):
    assert read(init_lora_weights=start).rank == 4


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS", 3, ["CAUSAL_LM"]])
def test_an_adapter_for_another_task_is_refused(task: Any):
    read(task_type=None)
    with pytest.raises(Unsupported, match="for the task"):
        read(task_type=task)


WRONG: dict[str, dict[str, Any]] = {
    "targets that are a number": {"target_modules": 5},
    "targets of numbers": {"target_modules": [5]},
    "exclusions that are an object": {"exclude_modules": {"q_proj": 1}},
    "more targets than a model has modules": {"target_modules": ["q_proj"] * 10_001},
    "more exclusions than that": {"exclude_modules": [f"m{number}" for number in range(10_001)]},
    "layers in text": {"layers_to_transform": "0"},
    "layers of floats": {"layers_to_transform": [0.5]},
    "layers of flags": {"layers_to_transform": [True]},
    "a flag in text": {"use_rslora": "false"},
    "another flag in text": {"ensure_weight_tying": "no"},
    "a rank of true": {"r": True},
    "a rank of a float": {"r": 4.0},
    "an alpha of true": {"lora_alpha": True},
    "a base model that is a list": {"base_model_name_or_path": ["x"]},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_value_that_cannot_be_is_named(case: str):
    with pytest.raises(InvalidInput, match=next(iter(WRONG[case]))):
        read(**WRONG[case])


def test_layers_under_another_name_are_refused():
    assert read(layers_to_transform=[0], layers_pattern="layers").layers == {0}
    assert read(layers_to_transform=[0], layers_pattern=["layers"]).layers == {0}
    with pytest.raises(EZTinkerError, match="layers_pattern 'h'"):
        read(layers_to_transform=[0], layers_pattern="h")


Q0, Q1, HEAD = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "lm_head"
TARGETS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "by its last part": ({}, {Q0, Q1}),
    "by its whole name": ({"target_modules": [Q0, "lm_head"]}, {Q0, HEAD}),
    "by an end of its name": ({"target_modules": ["1.self_attn.q_proj"]}, {Q1}),
    "by part of a word": ({"target_modules": ["proj"]}, set()),
    "by none": ({"target_modules": []}, set()),
    "by a pattern": ({"target_modules": "(a+)+$"}, {Q0, Q1, HEAD}),
    "by all linear ones": ({"target_modules": "all-linear"}, {Q0, Q1, HEAD}),
    "by peft's own list": ({"target_modules": None}, {Q0, Q1, HEAD}),
    "in one layer": ({"layers_to_transform": 1}, {Q1}),
    "in some layers": ({"layers_to_transform": [0, 5]}, {Q0}),
    "in no layer named": ({"layers_to_transform": []}, {Q0, Q1}),
    "in one layer, but for whole names": ({"target_modules": [Q0, "q_proj"], "layers_to_transform": [1]}, {Q0, Q1}),
    "but for one": ({"exclude_modules": [Q1]}, {Q0}),
    "but for all": ({"exclude_modules": ["q_proj"]}, set()),
    "but for a pattern": ({"exclude_modules": ".*1.*"}, {Q0, Q1}),
}


@pytest.mark.parametrize("case", TARGETS)
def test_modules_are_those_that_peft_would_take(case: str):
    changes, expected = TARGETS[case]
    config = read(**changes)
    assert {module for module in (Q0, Q1, HEAD) if config.targets(module)} == expected


def test_a_long_list_of_names_costs_a_look_up_no_more_than_a_short_one():
    """Else a config of a megabyte would keep the server busy for minutes."""

    def seconds(names: list[str]) -> float:
        config = read(target_modules=names, exclude_modules=names[1:])
        began = time.process_time()
        for _ in range(100):
            assert config.targets(Q0)
        return time.process_time() - began

    short = max(seconds(["q_proj"]) for _ in range(5))
    assert seconds(["q_proj", *(f"m{number}" for number in range(9_999))]) < 100 * short


def test_a_layer_whose_number_is_too_long_for_one_is_none_of_those_named():
    assert not read(layers_to_transform=[0]).targets(f"model.layers.{'1' * 5000}.self_attn.q_proj")
