"""forward_backward requests as the official SDK writes them, and results as it reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
import torch
from tinker import types
from tinker.proto import tinker_public_pb2 as sdk_pb
from tinker.proto.response_conv import deserialize_forward_backward_output

from eztinker.errors import MalformedBody, UserError
from eztinker.protocol.training_codec import decode_json, decode_protobuf, encode_result, result_as_json
from eztinker.types import ForwardBackwardResult
from tests.unit.protocol.sdk_messages import TARGETS, batch_of, failure_of, sdk_datum, sdk_message


@pytest.mark.conforms(46)
def test_a_request_of_the_sdk_is_read_field_by_field():
    first = sdk_datum([5, 6], target_tokens=[6, 7], weights=[0.5, 1.0])
    second = sdk_datum([8], target_tokens=[9], weights=[-2.0])
    request = decode_protobuf(sdk_message(first, second, forward_only=True).SerializeToString())
    assert (request.model_id, request.seq_id) == ("run:train:0", 7)
    assert request.error is None
    assert request.forward_only
    assert request.loss_fn == "cross_entropy"
    one, two = request.data
    assert one.tokens.tolist() == [5, 6]
    assert one.loss_fn_inputs["target_tokens"].tolist() == [6, 7]
    assert one.loss_fn_inputs["weights"].tolist() == [0.5, 1.0]
    assert two.loss_fn_inputs["weights"].tolist() == [-2.0]


@pytest.mark.conforms(46)
def test_text_chunks_are_one_sequence():
    chunks: list[types.ModelInputChunk] = [types.EncodedTextChunk(tokens=[1, 2]), types.EncodedTextChunk(tokens=[3])]
    datum = types.Datum(model_input=types.ModelInput(chunks=chunks), loss_fn_inputs={})
    assert batch_of(sdk_message(datum)).data[0].tokens.tolist() == [1, 2, 3]


@pytest.mark.conforms(55)
def test_the_newer_loss_configuration_wins():
    message = sdk_message(sdk_datum([1], target_tokens=[1]), loss_fn_config={"beta": 0.5, "mode": "x"})
    message.loss_fn_config["beta"] = 9.0
    assert batch_of(message).loss_fn_config == {"beta": 0.5, "mode": "x"}
    message.ClearField("loss_fn_config_v2")
    assert batch_of(message).loss_fn_config == {"beta": 9.0}


def test_bad_content_is_kept_as_the_reason_and_names_the_datum():
    message = sdk_message(sdk_datum([1], target_tokens=[1]), sdk_datum([1], target_tokens=[1]))
    message.data[1].loss_fn_inputs["target_tokens"].shape[0] = 2
    assert failure_of(message).message == "data[1]: A tensor of shape [2] needs 2 numbers, got 1"


@pytest.mark.conforms(59)
def test_images_are_refused_by_name():
    chunk: types.ModelInputChunk = types.ImageChunk(data=b"x", format="png", expected_tokens=1)
    datum = types.Datum(model_input=types.ModelInput(chunks=[chunk]), loss_fn_inputs={})
    assert "image chunks are not supported" in failure_of(sdk_message(datum)).message


@pytest.mark.parametrize(
    "body", [b"\xff\xff\xff", b"", sdk_pb.ForwardBackwardRequest(model_id="m").SerializeToString()]
)
def test_a_body_that_does_not_say_where_it_belongs_is_malformed(body: bytes):
    with pytest.raises(MalformedBody):
        decode_protobuf(body)


@pytest.mark.conforms(49)
def test_the_sdk_reads_a_result_with_targets_of_several_widths_in_order():
    logprobs = [
        np.array([-1.0, -2.0], np.float32),
        np.array([[-3.0, -4.0]], np.float32),
        np.array([[-5.0, -6.0], [-7.0, -8.0]], np.float32),
        np.array([-9.0], np.float32),
    ]
    body = encode_result(
        ForwardBackwardResult(loss_fn_outputs=[{"logprobs": array} for array in logprobs], metrics={"loss:sum": 1.5})
    )
    result = deserialize_forward_backward_output(body)
    assert result.metrics == {"loss:sum": 1.5}
    read = [output["logprobs"].to_numpy() for output in result.loss_fn_outputs]
    for expected, got in zip(logprobs, read, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.conforms(12)
def test_a_json_request_says_the_same_as_its_protobuf():
    sparse = types.TensorData.from_torch_sparse(torch.tensor(TARGETS))
    datum = sdk_datum([1, 2], target_tokens=torch.tensor(TARGETS), weights=torch.ones(2, 8))
    dense_weights = {"data": [1.0] * 16, "dtype": "float32", "shape": [2, 8]}
    body = {
        "model_id": "run:train:0",
        "seq_id": 7,
        "forward_backward_input": {
            "data": [
                {
                    "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
                    "loss_fn_inputs": {
                        "target_tokens": {
                            "data": sparse.data,
                            "dtype": "int64",
                            "shape": [2, 8],
                            "sparse_crow_indices": sparse.sparse_crow_indices,
                            "sparse_col_indices": sparse.sparse_col_indices,
                        },
                        "weights": dense_weights,
                    },
                }
            ],
            "loss_fn": "cross_entropy",
        },
    }
    from_json = decode_json(orjson.dumps(body), forward_only=False)
    from_proto = batch_of(sdk_message(datum))
    assert from_json.error is None
    assert from_json.data[0].tokens.tolist() == from_proto.data[0].tokens.tolist()
    for name, array in from_proto.data[0].loss_fn_inputs.items():
        np.testing.assert_array_equal(from_json.data[0].loss_fn_inputs[name], array)


def test_a_json_field_we_do_not_know_is_refused_unless_it_is_off():
    body: dict[str, Any] = {"model_id": "m", "seq_id": 1, "forward_backward_input": {"data": [], "loss_fn": "ppo"}}
    assert decode_json(orjson.dumps(body | {"later": 0}), forward_only=False).error is None
    error = decode_json(orjson.dumps(body | {"later": 1}), forward_only=False).error
    assert isinstance(error, UserError)
    assert error.message == "Unknown fields in the request: later"


def test_older_clients_read_the_result_as_json():
    outputs = [{"logprobs": np.array([[-1.0, -2.0]], np.float32)}, {"logprobs": np.array([[-3.0, -4.0]], np.float32)}]
    body = encode_result(ForwardBackwardResult(loss_fn_outputs=outputs, metrics={"loss:sum": 2.0}))
    assert result_as_json(body) == {
        "loss_fn_output_type": "ArrayRecord",
        "loss_fn_outputs": [
            {"logprobs": {"data": [-1.0, -2.0], "dtype": "float32", "shape": [1, 2]}},
            {"logprobs": {"data": [-3.0, -4.0], "dtype": "float32", "shape": [1, 2]}},
        ],
        "metrics": {"loss:sum": 2.0},
    }
