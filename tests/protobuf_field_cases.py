"""For every field of the protobuf form of a training batch: two requests that differ in it alone."""

from __future__ import annotations

from typing import Any

from tinker.proto import tinker_public_pb2


def protobuf_request() -> tinker_public_pb2.ForwardBackwardRequest:
    """One with something in every field that has an effect."""
    message = tinker_public_pb2.ForwardBackwardRequest(model_id="m", seq_id=1, loss_fn="ppo")
    message.loss_fn_config["clip_low_threshold"] = 0.9
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = b"\x0a\0\0\0\x0b\0\0\0"
    dense, sparse = datum.loss_fn_inputs["weights"], datum.loss_fn_inputs["advantages"]
    dense.dense, dense.dtype = bytes(16), tinker_public_pb2.DTYPE_FLOAT32
    dense.shape.extend([4])
    sparse.dtype = tinker_public_pb2.DTYPE_FLOAT32
    sparse.shape.extend([2, 2])
    sparse.sparse_csr.values = b"\0\0\x80\x3f" * 2
    sparse.sparse_csr.crow_indices = b"".join(each.to_bytes(8, "little") for each in (0, 1, 2))
    sparse.sparse_csr.col_indices = b"".join(each.to_bytes(8, "little") for each in (0, 1))
    for spans in (datum.model_input_spans, datum.loss_fn_input_spans):
        for span in (spans.add().prompt_tokens, spans.add().sampled_tokens):
            span.sequence_id, span.offset, span.length = "op-1-0", 1, 2
    return message


def _config_v2(value: tinker_public_pb2.LossConfigValue) -> tinker_public_pb2.ForwardBackwardRequest:
    message = protobuf_request()
    message.loss_fn_config_v2["clip_low_threshold"].CopyFrom(value)
    return message


def _changed(**others: Any) -> tinker_public_pb2.ForwardBackwardRequest:
    message = protobuf_request()
    for name, value in others.items():
        setattr(message, name, value)
    return message


def _without(name: Any) -> tinker_public_pb2.ForwardBackwardRequest:
    message = protobuf_request()
    message.ClearField(name)
    return message


def _tensor_with(input_name: str, name: str, value: Any) -> tinker_public_pb2.ForwardBackwardRequest:
    message = protobuf_request()
    tensor = message.data[0].loss_fn_inputs[input_name]
    if name == "shape":
        tensor.shape[:] = value
    else:
        holder = tensor if name in ("dense", "dtype") else tensor.sparse_csr
        setattr(holder, name, value)
    return message


def _datum_without(name: Any) -> tinker_public_pb2.ForwardBackwardRequest:
    message = protobuf_request()
    message.data[0].ClearField(name)
    return message


def _span_with(kind: str, name: str, value: Any) -> tinker_public_pb2.ForwardBackwardRequest:
    """The first span is a prompt's, the second one a completion's."""
    message = protobuf_request()
    spans = message.data[0].model_input_spans
    setattr(spans[0].prompt_tokens if kind == "prompt_tokens" else spans[1].sampled_tokens, name, value)
    return message


def _text(tokens: bytes) -> tinker_public_pb2.ForwardBackwardRequest:
    message = protobuf_request()
    message.data[0].model_input[0].encoded_text.tokens = tokens
    return message


def _ints(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


_NUMBER, _OTHER_NUMBER = (tinker_public_pb2.LossConfigValue(number=number) for number in (0.5, 0.6))
_TEXT, _OTHER_TEXT = (tinker_public_pb2.LossConfigValue(text=text) for text in ("a", "b"))

PROTOBUF: dict[str, tuple[tinker_public_pb2.ForwardBackwardRequest, tinker_public_pb2.ForwardBackwardRequest]] = {
    name: (protobuf_request(), other)
    for name, other in {
        "ForwardBackwardRequest.model_id": _changed(model_id="m2"),
        "ForwardBackwardRequest.seq_id": _changed(seq_id=2),
        "ForwardBackwardRequest.data": _without("data"),
        "ForwardBackwardRequest.loss_fn": _changed(loss_fn="cispo"),
        "ForwardBackwardRequest.loss_fn_config": _without("loss_fn_config"),
        "ForwardBackwardRequest.forward_only": _changed(forward_only=True),
        "ForwardBackwardRequest.loss_fn_config_v2": _config_v2(_NUMBER),
        "Datum.model_input": _datum_without("model_input"),
        "Datum.loss_fn_inputs": _datum_without("loss_fn_inputs"),
        "Datum.model_input_spans": _datum_without("model_input_spans"),
        "Datum.loss_fn_input_spans": _datum_without("loss_fn_input_spans"),
        "ProvenanceSpan.prompt_tokens": _span_with("sampled_tokens", "length", 5),
        "ProvenanceSpan.sampled_tokens": _span_with("prompt_tokens", "length", 5),
        **{
            f"{message}.{name}": _span_with(kind, name, value)
            for message, kind in (
                ("PromptProvenanceSpan", "prompt_tokens"),
                ("SampledProvenanceSpan", "sampled_tokens"),
            )
            for name, value in {"sequence_id": "op-2-0", "offset": 0, "length": 1}.items()
        },
        "Chunk.encoded_text": _text(b""),
        "EncodedTextChunk.tokens": _text(b"\x0a\0\0\0\x0c\0\0\0"),
        "Tensor.dense": _tensor_with("weights", "dense", bytes(15) + b"\x3f"),
        "Tensor.sparse_csr": _tensor_with("advantages", "dense", bytes(16)),
        "Tensor.dtype": _tensor_with("advantages", "dtype", tinker_public_pb2.DTYPE_INT32),
        "Tensor.shape": _tensor_with("weights", "shape", [2, 2]),
        "SparseCsr.values": _tensor_with("advantages", "values", b"\0\0\0\x40" * 2),
        "SparseCsr.crow_indices": _tensor_with("advantages", "crow_indices", _ints(0, 2, 2)),
        "SparseCsr.col_indices": _tensor_with("advantages", "col_indices", _ints(1, 0)),
    }.items()
} | {
    "LossConfigValue.number": (_config_v2(_NUMBER), _config_v2(_OTHER_NUMBER)),
    "LossConfigValue.text": (_config_v2(_TEXT), _config_v2(_OTHER_TEXT)),
}
