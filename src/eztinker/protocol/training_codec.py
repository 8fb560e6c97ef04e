"""Codec of forward_backward: requests in protobuf or JSON, results in protobuf or, for older clients, JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby, pairwise
from math import prod
from typing import Any, TypeVar

import msgspec
import numpy as np
from google.protobuf.message import DecodeError

from eztinker.errors import InvalidInput, MalformedBody, Unsupported, UserError
from eztinker.protocol import wire_pb2
from eztinker.protocol.json_bodies import Body, convert_object, parse_object
from eztinker.protocol.model_inputs import ModelInputBody, tokens_from_json
from eztinker.protocol.provenance import Provenance, check_num_spans, provenance_from_wire
from eztinker.protocol.tensors import WIRE_DTYPES, TensorBody, tensor_from_json, tensor_from_wire
from eztinker.protocol.wire_bounds import check_fields
from eztinker.types import Datum, ForwardBackwardResult, Record

DecodedT = TypeVar("DecodedT")

TYPE_TAG = "ArrayRecord"
MAX_DATA = 4096
"""Most data in one request; the official client sends at most 1,024."""
_WIRE_DTYPE_OF = {dtype: wire for wire, dtype in WIRE_DTYPES.items()}


class ForwardBackwardRequest(Record):
    """A request with a valid run and sequence number, whose content may be invalid.

    A sequence number is used up even by invalid content, so invalid content is kept as the error to report and does not
    make the request itself fail, after which the official client would stop sending for good.
    """

    model_id: str
    seq_id: int
    data: list[Datum] = msgspec.field(default_factory=list)
    loss_fn: str = ""
    loss_fn_config: dict[str, float | str] = msgspec.field(default_factory=dict)
    forward_only: bool = False
    provenance: list[Provenance | None] | None = None
    """One per datum; None where the form of the request has no place for it."""
    error: UserError | None = None
    """The error in content that cannot be read, which takes the place of the content."""


class DatumBody(Body):
    model_input: ModelInputBody
    loss_fn_inputs: dict[str, TensorBody]


class TrainingBatchBody(Body):
    data: list[DatumBody]
    loss_fn: str
    loss_fn_config: dict[str, float | str] | None = None


class ForwardBackwardBody(Body, kw_only=True):
    """JSON body of forward_backward; `forward_input` is the name of the batch at the older forward endpoint."""

    forward_backward_input: TrainingBatchBody | None = None
    forward_input: TrainingBatchBody | None = None
    forward_only: bool = False
    model_id: str
    seq_id: int
    type: str | None = None


def decode_protobuf(body: bytes | bytearray) -> ForwardBackwardRequest:
    """The request in a protobuf body.

    Raises:
        MalformedBody: `body` is not the message, or has no valid run and sequence number.
        TooLarge: it has too many fields.
    """
    check_fields(body, wire_pb2.ForwardBackwardRequest)
    try:
        message = wire_pb2.ForwardBackwardRequest.FromString(body)  # pyright: ignore[reportArgumentType]  # any buffer
    except DecodeError as error:
        raise MalformedBody("The body is not a ForwardBackwardRequest message") from error
    return _identified(message.model_id, message.seq_id, partial(_from_wire, message))


def decode_json(body: bytes | bytearray, *, forward_only: bool) -> ForwardBackwardRequest:
    """The request in a JSON body.

    Args:
        forward_only: whether the request came to the older forward endpoint.
    Raises:
        MalformedBody: `body` is not a JSON object, or has no valid run and sequence number.
    """
    value = parse_object(body)
    return _identified(value.get("model_id"), value.get("seq_id"), partial(_from_json, value, forward_only))


def encode_result(result: ForwardBackwardResult) -> bytes:
    """Serialize a ForwardBackwardOutput: one ArrayRecord per group of neighbouring data with equal trailing shapes."""
    message = wire_pb2.ForwardBackwardOutput(loss_fn_output_type=TYPE_TAG, metrics=result.metrics)
    for _, outputs in groupby(result.loss_fn_outputs, key=_layout):
        message.loss_fn_outputs.append(_array_record(list(outputs)))
    return message.SerializeToString()


def result_as_json(body: bytes) -> dict[str, Any]:
    """A serialized ForwardBackwardOutput as the JSON that clients before protobuf read."""
    message = wire_pb2.ForwardBackwardOutput.FromString(body)
    outputs = [datum for record in message.loss_fn_outputs for datum in _data_of(record)]
    return {
        "loss_fn_output_type": message.loss_fn_output_type,
        "loss_fn_outputs": outputs,
        "metrics": dict(message.metrics),
    }


def _identified(
    model_id: Any, seq_id: Any, decode_content: Callable[[str, int], ForwardBackwardRequest]
) -> ForwardBackwardRequest:
    if not isinstance(model_id, str) or not model_id or not isinstance(seq_id, int) or seq_id < 1:
        raise MalformedBody("A forward_backward must name its model_id and a seq_id of at least 1")
    try:
        return decode_content(model_id, seq_id)
    except UserError as error:
        return ForwardBackwardRequest(model_id=model_id, seq_id=seq_id, error=error)


def _from_wire(message: wire_pb2.ForwardBackwardRequest, model_id: str, seq_id: int) -> ForwardBackwardRequest:
    _check_num_data(len(message.data))
    config: dict[str, float | str] = dict(message.loss_fn_config)
    if message.loss_fn_config_v2:
        config = {name: _config_value(name, value) for name, value in message.loss_fn_config_v2.items()}
    check_num_spans(message.data)
    return ForwardBackwardRequest(
        model_id=model_id,
        seq_id=seq_id,
        data=[_named(index, _datum_from_wire, datum) for index, datum in enumerate(message.data)],
        loss_fn=message.loss_fn,
        loss_fn_config=config,
        forward_only=message.forward_only,
        provenance=[_named(index, provenance_from_wire, datum) for index, datum in enumerate(message.data)],
    )


def _check_num_data(num_data: int) -> None:
    """Refuse too many data before they are decoded."""
    if num_data > MAX_DATA:
        raise InvalidInput(f"A request needs 1 to {MAX_DATA} data, got {num_data}", field="data")


def _config_value(name: str, value: wire_pb2.LossConfigValue) -> float | str:
    match value.WhichOneof("value"):
        case "number":
            return value.number
        case "text":
            return value.text
    raise InvalidInput(f"loss_fn_config entry {name!r} has no value", field="loss_fn_config")


def _datum_from_wire(datum: wire_pb2.Datum) -> Datum:
    return _datum(
        [_chunk_tokens(chunk) for chunk in datum.model_input],
        {name: tensor_from_wire(tensor) for name, tensor in datum.loss_fn_inputs.items()},
    )


def _chunk_tokens(chunk: wire_pb2.Chunk) -> np.ndarray:
    kind = chunk.WhichOneof("chunk")
    if kind != "encoded_text":
        raise Unsupported(f"A model_input may hold text only; {kind or 'empty'} chunks are not supported")
    raw = chunk.encoded_text.tokens
    if len(raw) % 4:
        raise InvalidInput(f"A text chunk of {len(raw)} bytes does not hold whole int32 tokens", field="model_input")
    return np.frombuffer(raw, dtype="<i4").astype(np.int64)


def _from_json(value: dict[str, Any], forward_only: bool, model_id: str, seq_id: int) -> ForwardBackwardRequest:
    body = convert_object(value, ForwardBackwardBody)
    batch = body.forward_input if forward_only else body.forward_backward_input
    if batch is None:
        raise InvalidInput(f"{'forward_input' if forward_only else 'forward_backward_input'} is missing")
    _check_num_data(len(batch.data))
    return ForwardBackwardRequest(
        model_id=model_id,
        seq_id=seq_id,
        data=[_named(index, _datum_from_json, datum) for index, datum in enumerate(batch.data)],
        loss_fn=batch.loss_fn,
        loss_fn_config=batch.loss_fn_config or {},
        forward_only=forward_only or body.forward_only,
    )


def _datum_from_json(datum: DatumBody) -> Datum:
    inputs = {name: tensor_from_json(tensor) for name, tensor in datum.loss_fn_inputs.items()}
    return _datum([tokens_from_json(datum.model_input)], inputs)


def _datum(token_chunks: list[np.ndarray], inputs: dict[str, np.ndarray]) -> Datum:
    return Datum(
        tokens=_joined(token_chunks),
        loss_fn_inputs={
            name: array.astype(np.int64 if name == "target_tokens" else np.float32, copy=False)
            for name, array in inputs.items()
        },
    )


def _joined(chunks: list[np.ndarray]) -> np.ndarray:
    """Tokens of all chunks. A single chunk, the usual case, is not copied: it may have 100 MB."""
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.empty(0, np.int64), *chunks])


def _named(index: int, decode: Callable[[Any], DecodedT], datum: Any) -> DecodedT:
    """Decode one datum or a part of it; errors name its index."""
    try:
        return decode(datum)
    except UserError as error:
        raise InvalidInput(f"data[{index}]: {error.message}", field="data") from error


def _layout(outputs: dict[str, np.ndarray]) -> list[tuple[str, str, tuple[int, ...]]]:
    return sorted((name, array.dtype.name, array.shape[1:]) for name, array in outputs.items())


def _array_record(outputs: list[dict[str, np.ndarray]]) -> wire_pb2.ArrayRecord:
    record = wire_pb2.ArrayRecord(type_tag=TYPE_TAG, num_datums=len(outputs))
    for name in outputs[0]:
        record.fields[name].CopyFrom(_batched_tensor([output[name] for output in outputs]))
    return record


def _batched_tensor(arrays: list[np.ndarray]) -> wire_pb2.BatchedTensor:
    offsets = np.cumsum([0, *(array.nbytes for array in arrays)], dtype="<i8")
    return wire_pb2.BatchedTensor(
        data=b"".join(np.ascontiguousarray(array).tobytes() for array in arrays),
        offsets=offsets.tobytes(),
        dtype=_WIRE_DTYPE_OF[arrays[0].dtype],
        trailing_shape=arrays[0].shape[1:],
    )


def _data_of(record: wire_pb2.ArrayRecord) -> Iterable[dict[str, Any]]:
    fields = {name: _split(tensor) for name, tensor in record.fields.items()}
    return [{name: arrays[index] for name, arrays in fields.items()} for index in range(record.num_datums)]


def _split(tensor: wire_pb2.BatchedTensor) -> list[dict[str, Any]]:
    dtype = WIRE_DTYPES[tensor.dtype]
    numbers = np.frombuffer(tensor.data, dtype)
    bounds = np.frombuffer(tensor.offsets, "<i8") // dtype.itemsize
    trailing = list(tensor.trailing_shape)
    return [
        {
            "data": numbers[start:end].tolist(),
            "dtype": "float32" if dtype.kind == "f" else "int64",
            "shape": [int(end - start) // prod(trailing), *trailing],
        }
        for start, end in pairwise(bounds)
    ]
