"""Names, shapes, optimizer steps and lifetimes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from eztinker.errors import CheckpointNotFound, InvalidInput, Unsupported
from eztinker.service.validation import (
    check_adam,
    check_lora,
    check_metadata,
    check_name,
    check_optimizer_family,
    expiry,
    parse_tinker_path,
)
from eztinker.types import AdamParams, CheckpointKind, LoraSpec

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("name", ["a", "v1.0", "step-40_b", "0", "x" * 128])
def test_plain_names_are_taken(name: str):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "../../x", "a\n", "a\0", "%2f", "é", "a b", "x" * 129])
def test_other_names_are_refused(name: str):
    with pytest.raises(InvalidInput, match="A checkpoint name has"):
        check_name(name)


def test_a_tinker_path_has_three_parts():
    path = parse_tinker_path("tinker://s:train:0/sampler_weights/final")
    assert (path.model_id, path.kind, path.name) == ("s:train:0", CheckpointKind.SAMPLER, "final")
    assert str(path) == "tinker://s:train:0/sampler_weights/final"


@pytest.mark.parametrize(
    "path", ["", "tinker://a/weights", "tinker://a/b/c", "tinker://a/weights/b/c", "file:///a/weights/b", "a/weights/b"]
)
def test_no_checkpoint_is_at_any_other_path(path: str):
    with pytest.raises(CheckpointNotFound):
        parse_tinker_path(path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rank": 0}, "between 1 and 512, got 0"),
        ({"rank": 513}, "got 513"),
        ({"seed": -1}, "seed must be between"),
        ({"seed": 2**80}, "seed must be between"),
        ({"train_attn": False, "train_mlp": False, "train_unembed": False}, "At least one of"),
    ],
)
def test_impossible_adapters_are_refused(fields: dict[str, Any], sentence: str):
    with pytest.raises(InvalidInput, match=sentence):
        check_lora(msgspec.structs.replace(LoraSpec(rank=8, seed=0), **fields))


def test_any_rank_up_to_the_limit_is_possible():
    assert [check_lora(LoraSpec(rank=rank, seed=0)).rank for rank in (1, 3, 512)] == [1, 3, 512]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"learning_rate": -1e-3}, "learning_rate must not be negative"),
        ({"beta1": 1.0}, "beta1 must be at least 0 and below 1"),
        ({"beta2": -0.1}, "beta2 must be at least 0 and below 1"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"grad_clip_norm": float("inf")}, "grad_clip_norm must be a finite number"),
    ],
)
def test_impossible_steps_are_refused(fields: dict[str, float], sentence: str):
    with pytest.raises(InvalidInput, match=sentence):
        check_adam(AdamParams(**fields))


def test_the_defaults_of_the_sdk_make_a_step():
    assert check_adam(AdamParams()) == AdamParams()


@pytest.mark.conforms(29, "dimuon")
def test_other_optimizers_are_refused_by_name():
    check_optimizer_family("adamw")
    with pytest.raises(Unsupported, match="dimuon"):
        check_optimizer_family("dimuon")


def test_a_lifetime_counts_from_now_and_has_bounds():
    assert expiry(None, NOW) is None
    assert expiry(3600, NOW) == NOW + timedelta(hours=1)
    for seconds in (3599, 0, -1, 10**12):
        with pytest.raises(InvalidInput, match="ttl_seconds must be between 3600"):
            expiry(seconds, NOW)


def test_metadata_stays_small():
    check_metadata({"a": "x" * 4000})
    with pytest.raises(InvalidInput, match="4096 bytes"):
        check_metadata({"a": "x" * 5000})
