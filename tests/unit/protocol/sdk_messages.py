"""Training requests of the official SDK, and what the server reads from them."""

from __future__ import annotations

from typing import Any

from tinker import types
from tinker.proto import tinker_public_pb2 as sdk_pb
from tinker.proto.request_conv import forward_backward_request_to_proto
from tinker.types.forward_backward_input import ForwardBackwardInput
from tinker.types.forward_backward_request import ForwardBackwardRequest as SdkRequest

from eztinker.errors import UserError
from eztinker.protocol.training_codec import ForwardBackwardRequest, decode_protobuf

TARGETS = [[3, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 4]]


def sdk_message(*data: types.Datum, **fields: Any) -> sdk_pb.ForwardBackwardRequest:
    config = fields.pop("loss_fn_config", None)
    batch = ForwardBackwardInput(list(data), fields.pop("loss_fn", "cross_entropy"), config)
    message = forward_backward_request_to_proto(SdkRequest(batch, "run:train:0", 7))
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def sdk_datum(tokens: list[int], **inputs: Any) -> types.Datum:
    return types.Datum(model_input=types.ModelInput.from_ints(tokens), loss_fn_inputs=inputs)


def batch_of(message: sdk_pb.ForwardBackwardRequest) -> ForwardBackwardRequest:
    request = decode_protobuf(message.SerializeToString())
    assert request.error is None
    return request


def failure_of(message: sdk_pb.ForwardBackwardRequest) -> UserError:
    error = decode_protobuf(message.SerializeToString()).error
    assert isinstance(error, UserError)
    return error
