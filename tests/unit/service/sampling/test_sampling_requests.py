"""Limits and defaults of a sample request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from eztinker.base_models.base_model import BaseModel
from eztinker.errors import ContextExceeded, InvalidInput
from eztinker.protocol.prompt_targets import TargetTensor, targets_from_json
from eztinker.protocol.sampling_codec import SamplingParamsBody, WireSampleRequest
from eztinker.protocol.tensors import TensorBody
from eztinker.service.sampling.sampling_requests import engine_request

BASE = BaseModel(
    name="tiny", directory=Path("/none"), model_type="llama", vocab_size=10, context_length=8, eos_token_ids=(9, 8)
)


def targets(tokens: list[list[int]]) -> TargetTensor:
    flat: list[int | float] = [token for row in tokens for token in row]
    return targets_from_json(TensorBody(data=flat, dtype="int64", shape=[len(tokens), len(tokens[0])]))


def wire(prompt: tuple[int, ...] = (1, 2, 3), **fields: Any) -> WireSampleRequest:
    params = {name: fields.pop(name) for name in SamplingParamsBody.__struct_fields__ if name in fields}
    given: dict[str, Any] = {
        "sampling_session_id": "s",
        "seq_id": 0,
        "num_samples": 1,
    } | fields
    return WireSampleRequest(prompt=np.array(prompt, np.int64), params=SamplingParamsBody(**params), **given)


def test_without_max_tokens_the_rest_of_the_context_is_free():
    assert engine_request(wire(), BASE).params.max_tokens == 5


@pytest.mark.parametrize(
    ("stop", "token_ids", "strings"),
    [
        (None, (9, 8), ()),
        ("\n", (9, 8), ("\n",)),
        (["a", "b"], (9, 8), ("a", "b")),
        ([3], (3, 9, 8), ()),
        ([9], (9, 8), ()),
        ([], (), ()),
    ],
)
def test_the_end_of_sequence_always_stops_unless_stops_are_turned_off(
    stop: Any, token_ids: tuple[int, ...], strings: tuple[str, ...]
):
    params = engine_request(wire(stop=stop), BASE).params
    assert (params.stop_token_ids, params.stop_strings) == (token_ids, strings)


def test_an_ending_to_score_becomes_its_first_position():
    assert engine_request(wire(prompt_logprobs=True), BASE).first_scored == 1
    assert engine_request(wire(prompt_logprobs=True, prompt_logprobs_last_n=1), BASE).first_scored == 2


def test_only_the_cells_that_ask_for_something_go_to_the_engine():
    cells = engine_request(wire(target_prompt_logprobs=targets([[-1, 4], [5, -1]])), BASE).target_prompt_logprobs
    assert cells is not None
    assert (cells.positions.tolist(), cells.tokens.tolist()) == ([1, 2], [4, 5])


def test_a_result_that_may_come_to_gigabytes_is_refused():
    long = msgspec.structs.replace(BASE, context_length=1 << 20)
    with pytest.raises(InvalidInput, match=r"1024 samples of up to 100000 tokens may come to \d+ numbers"):
        engine_request(wire(num_samples=1024, max_tokens=100_000, topk_sample_logprobs=1), long)


def test_too_long_a_request_is_told_the_numbers():
    with pytest.raises(ContextExceeded, match="3 tokens and max_tokens is 6; together they exceed the context of 8"):
        engine_request(wire(max_tokens=6), BASE)
    assert engine_request(wire(max_tokens=5), BASE).params.max_tokens == 5


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(ContextExceeded):
        engine_request(wire(prompt=(1,) * 8), BASE)


SCORES: dict[str, dict[str, Any]] = {
    "logprobs": {"prompt_logprobs": True},
    "the last logprob": {"prompt_logprobs": True, "prompt_logprobs_last_n": 1},
    "likeliest tokens": {"topk_prompt_logprobs": 2},
    "logprobs of other tokens": {"target_prompt_logprobs": targets([[1]] * 7)},
    "tokens that might have stood there": {"prompt_alt_tokens_k": 2},
}


@pytest.mark.parametrize("max_tokens", [1, None])
@pytest.mark.parametrize("scores", SCORES)
def test_a_prompt_that_fills_the_context_is_scored(scores: str, max_tokens: int | None):
    fields = {"prompt": (1,) * 8, **SCORES[scores]}
    assert engine_request(wire(max_tokens=max_tokens, **fields), BASE).params.max_tokens == 1
    with pytest.raises(ContextExceeded, match="8 tokens and max_tokens is 2; together they exceed the context of 8"):
        engine_request(wire(max_tokens=2, **fields), BASE)
    with pytest.raises(InvalidInput, match="max_tokens must be at least 1, got 0"):
        engine_request(wire(max_tokens=0, **fields), BASE)


def test_a_scored_prompt_has_the_rest_of_the_context_and_no_more():
    almost = {"prompt": (1,) * 7, "prompt_logprobs": True}
    assert engine_request(wire(**almost), BASE).params.max_tokens == 1
    assert engine_request(wire(max_tokens=1, **almost), BASE).params.max_tokens == 1
    with pytest.raises(ContextExceeded):
        engine_request(wire(max_tokens=2, **almost), BASE)
    with pytest.raises(ContextExceeded, match="9 tokens and max_tokens is 1"):
        engine_request(wire(prompt=(1,) * 9, prompt_logprobs=True), BASE)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": ()}, "at least one token"),
        ({"prompt": (1, 10)}, "token 10 at position 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"num_samples": 0}, "num_samples must be between 1 and 1024, got 0"),
        ({"num_samples": 10**9}, "num_samples must be between"),
        ({"temperature": -1.0}, "temperature must be 0 or a positive number of at least 1e-20, got -1.0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 5e-324}, "temperature must be 0 or a positive number of at least 1e-20, got 5e-324"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 2.0}, "top_p"),
        ({"top_k": -5}, "top_k must be between 1"),
        ({"seed": 2**80}, "seed must be between"),
        ({"stop": ["x"] * 65}, "stop may list 64 entries, got 65"),
        ({"stop": "x" * 2000}, "A stop string must have 1 to 1024 bytes"),
        ({"stop": ""}, "A stop string must have 1"),
        ({"stop": [10]}, "stop token must be between 0 and 9, got 10"),
        ({"seq_id": -1}, "seq_id must be between"),
        ({"topk_prompt_logprobs": 1000}, "topk_prompt_logprobs must be between"),
        ({"topk_sample_logprobs": 129}, "topk_sample_logprobs must be between 0 and 128, got 129"),
        ({"prompt_alt_tokens_k": -1}, "prompt_alt_tokens_k must be between 0 and 128, got -1"),
        ({"prompt_logprobs_last_n": 1}, "prompt_logprobs_last_n needs prompt_logprobs"),
        ({"prompt_logprobs": True, "prompt_logprobs_last_n": 0}, "must be between 1 and 2, got 0"),
        ({"prompt_logprobs": True, "prompt_logprobs_last_n": 3}, "must be between 1 and 2, got 3"),
        (
            {"target_prompt_logprobs": targets([[1]])},
            "after the first, 2, got shape [1, 1]",
        ),
        ({"target_prompt_logprobs": targets([[-1], [-1]])}, "must name at least one token"),
        ({"target_prompt_logprobs": targets([[-1], [10]])}, "token 10 at position 0 is not in the vocabulary"),
        ({"target_prompt_logprobs": targets([[-2], [1]])}, "token -2 at position 0"),
    ],
)
def test_a_value_out_of_range_gets_a_sentence(fields: dict[str, Any], sentence: str):
    with pytest.raises(InvalidInput) as caught:
        engine_request(wire(**fields), BASE)
    assert sentence in caught.value.message
