"""Targets of the official SDK, dense and sparse, and their logprobs as it reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
import torch
from tinker.proto.response_conv import deserialize_sample_response
from tinker.types import ModelInput, SamplingParams, TensorData
from tinker.types._pydantic_types.tensor_data import TensorData as TensorModel
from tinker.types.sample_request import SampleRequest as SdkRequest

from eztinker.errors import InvalidInput
from eztinker.protocol.prompt_targets import TargetTensor
from eztinker.protocol.sampling_codec import decode_request, encode_result, result_as_json
from eztinker.types import PromptAltTokens, SampledSequence, SampleResult, TopkLogprobs

IDS = torch.full((4, 5), -1)
IDS[1, 0], IDS[1, 4], IDS[3, 2] = 0, 7, 9


def body(targets: TensorData, **changes: Any) -> bytes:
    tensor = TensorModel(
        data=targets.data,
        dtype=targets.dtype,
        shape=targets.shape,
        sparse_crow_indices=targets.sparse_crow_indices,
        sparse_col_indices=targets.sparse_col_indices,
    )
    request = SdkRequest(
        prompt=ModelInput.from_ints([1, 2, 3, 4, 5]),
        sampling_params=SamplingParams(max_tokens=1),
        sampling_session_id="s",
        seq_id=0,
        target_prompt_logprobs=tensor,
    )
    value = request.model_dump(exclude_none=True, mode="json")
    value["target_prompt_logprobs"] |= changes
    return orjson.dumps(value)


def read(targets: TensorData, **changes: Any) -> TargetTensor:
    read_targets = decode_request(body(targets, **changes)).target_prompt_logprobs
    assert read_targets is not None
    return read_targets


def answer(targets: TargetTensor, logprobs: list[float]) -> bytes:
    return encode_result(SampleResult(sequences=[], target_prompt_logprobs=np.array(logprobs, np.float32)), targets)


@pytest.mark.parametrize("tensor", [TensorData.from_torch(IDS), TensorData.from_torch_sparse(IDS, pad_value=-1)])
def test_targets_are_read_and_answered_in_their_layout(tensor: TensorData):
    targets = read(tensor)
    cells = targets.cells()
    assert (cells.positions.tolist(), cells.tokens.tolist()) == ([2, 2, 4], [0, 7, 9])
    result = deserialize_sample_response(answer(targets, [-1.0, -2.0, -3.0])).target_prompt_logprobs
    assert result is not None
    assert (result.dtype, result.shape) == ("float32", [4, 5])
    assert result.sparse_crow_indices == tensor.sparse_crow_indices
    assert result.sparse_col_indices == tensor.sparse_col_indices
    expected = torch.zeros(4, 5)
    expected[1, 0], expected[1, 4], expected[3, 2] = -1, -2, -3
    assert torch.equal(result.to_torch(), expected)


def test_a_listed_cell_of_a_sparse_tensor_can_ask_for_nothing():
    sparse = TensorData.from_torch_sparse(IDS, pad_value=-1)
    targets = read(sparse, data=[0, -1, 9])
    assert targets.cells().tokens.tolist() == [0, 9]
    result = deserialize_sample_response(answer(targets, [-1.0, -3.0])).target_prompt_logprobs
    assert result is not None
    assert result.data == [-1.0, 0.0, -3.0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dtype": "float32"}, "must be an int64 tensor"),
        ({"shape": [20]}, r"got int64 of shape \[20\]"),
        ({"sparse_crow_indices": None}, "needs sparse_crow_indices"),
        ({"sparse_crow_indices": [0, 2**63 - 1, -(2**63), 2, 3]}, "row pointers"),
        ({"sparse_col_indices": [0, 5, 2]}, "column indices"),
        ({"shape": [4, 10**9]}, "cells"),
    ],
)
def test_a_wrong_tensor_gets_a_sentence(changes: dict[str, Any], sentence: str):
    with pytest.raises(InvalidInput, match=sentence):
        read(TensorData.from_torch_sparse(IDS, pad_value=-1), **changes)


def test_clients_without_protobuf_read_every_number_as_json():
    table = TopkLogprobs(token_ids=np.array([[4, 0]], np.int32), logprobs=np.array([[-0.5, -99999.0]], np.float32))
    sequence = SampledSequence(
        tokens=np.array([4], np.int32), logprobs=np.array([-0.5], np.float32), stop_reason="stop", topk_logprobs=table
    )
    alternatives = PromptAltTokens(tokens=np.array([[3]], np.int32), logprobs=np.array([[-0.25]], np.float32))
    targets = read(TensorData.from_torch_sparse(IDS, pad_value=-1))
    result = SampleResult(
        sequences=[sequence],
        target_prompt_logprobs=np.array([-1.0, -2.0, -3.0], np.float32),
        prompt_alt_tokens=alternatives,
    )
    as_json = orjson.loads(orjson.dumps(result_as_json(encode_result(result, targets))))
    assert as_json["sequences"][0]["topk_logprobs"] == [[[4, -0.5]]]
    assert as_json["target_prompt_logprobs"] == {
        "data": [-1.0, -2.0, -3.0],
        "dtype": "float32",
        "shape": [4, 5],
        "sparse_crow_indices": [0, 0, 2, 2, 3],
        "sparse_col_indices": [0, 4, 2],
    }
    assert as_json["prompt_alt_tokens"] == {
        "tokens": {"data": [3], "dtype": "int64", "shape": [1, 1]},
        "logprobs": {"data": [-0.25], "dtype": "float32", "shape": [1, 1]},
    }
