"""Codec of asample: requests in JSON, results in protobuf or, for older clients, JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from eztinker.errors import Unsupported
from eztinker.protocol import wire_pb2
from eztinker.protocol.json_bodies import Body, decode_json
from eztinker.protocol.model_inputs import ModelInputBody, tokens_from_json
from eztinker.protocol.prompt_targets import TargetTensor, targets_from_json, tensor_as_json
from eztinker.protocol.tensors import TensorBody
from eztinker.types import ABSENT_LOGPROB, PromptAltTokens, Record, SampledSequence, SampleResult, TopkLogprobs

_NOT_SUPPORTED = ("base_model", "model_path")
"""Known fields that are refused unless they have an off value."""


class SamplingParamsBody(Body):
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str | int] | None = None


class SampleBody(Body):
    sampling_session_id: str
    seq_id: int
    prompt: ModelInputBody
    sampling_params: SamplingParamsBody
    num_samples: int = 1
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: TensorBody | None = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | None = None
    record_stability_info: bool = False
    base_model: str | None = None
    model_path: str | None = None
    type: str | None = None


class WireSampleRequest(Record):
    """A sample request as the client sent it; defaults that depend on the model are not filled in."""

    sampling_session_id: str
    seq_id: int
    """The client's number for the request, 64 bits: clients in other processes count from clone * 10^9."""
    prompt: np.ndarray
    """Token ids, int64 (N,)."""
    num_samples: int
    params: SamplingParamsBody
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: TargetTensor | None = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | None = None
    record_stability_info: bool = False
    """Whether training requests will name the samples as the source of their data."""


def decode_request(body: bytes | bytearray) -> WireSampleRequest:
    """The request in a JSON body.

    Raises:
        InvalidInput: the body does not have the shape of a sample request.
        Unsupported: the request asks for a feature that is not supported, which the message names.
    """
    sample = decode_json(body, SampleBody)
    targets = sample.target_prompt_logprobs
    for name in _NOT_SUPPORTED:
        if getattr(sample, name):
            raise Unsupported(f"{name} is not supported by this server; leave it out")
    return WireSampleRequest(
        sampling_session_id=sample.sampling_session_id,
        seq_id=sample.seq_id,
        prompt=tokens_from_json(sample.prompt),
        num_samples=sample.num_samples,
        params=sample.sampling_params,
        prompt_logprobs=sample.prompt_logprobs,
        topk_prompt_logprobs=sample.topk_prompt_logprobs,
        topk_sample_logprobs=sample.topk_sample_logprobs,
        target_prompt_logprobs=None if targets is None else targets_from_json(targets),
        prompt_alt_tokens_k=sample.prompt_alt_tokens_k,
        prompt_logprobs_last_n=sample.prompt_logprobs_last_n,
        record_stability_info=sample.record_stability_info,
    )


def encode_result(result: SampleResult, targets: TargetTensor | None = None) -> bytes:
    """Serialize a SampleResponse; `targets` are those of the request."""
    message = wire_pb2.SampleResponse(
        sequences=[_sequence(sequence) for sequence in result.sequences],
        prompt_cache_hit_tokens=result.prompt_cache_hit_tokens,
    )
    if result.prompt_logprobs is not None:
        message.prompt_logprobs = _floats(result.prompt_logprobs)
    if result.topk_prompt_logprobs is not None:
        message.topk_prompt_logprobs.CopyFrom(_topk(result.topk_prompt_logprobs))
    if targets is not None and result.target_prompt_logprobs is not None:
        message.target_prompt_logprobs.CopyFrom(targets.encode(result.target_prompt_logprobs))
    if result.prompt_alt_tokens is not None:
        message.prompt_alt_tokens.CopyFrom(_alt_tokens(result.prompt_alt_tokens))
    return message.SerializeToString()


def result_as_json(body: bytes) -> dict[str, Any]:
    """A serialized SampleResponse as the JSON that clients before protobuf read."""
    message = wire_pb2.SampleResponse.FromString(body)
    answer: dict[str, Any] = {"sequences": [_sequence_as_json(sequence) for sequence in message.sequences]}
    if message.HasField("prompt_logprobs"):
        answer["prompt_logprobs"] = _floats_as_json(message.prompt_logprobs)
    if message.HasField("topk_prompt_logprobs"):
        answer["topk_prompt_logprobs"] = _topk_as_json(message.topk_prompt_logprobs)
    if message.HasField("target_prompt_logprobs"):
        answer["target_prompt_logprobs"] = tensor_as_json(message.target_prompt_logprobs)
    if message.HasField("prompt_alt_tokens"):
        drawn = message.prompt_alt_tokens
        answer["prompt_alt_tokens"] = {name: tensor_as_json(getattr(drawn, name)) for name in ("tokens", "logprobs")}
    return answer


def _sequence(sequence: SampledSequence) -> wire_pb2.SampledSequence:
    return wire_pb2.SampledSequence(
        stop_reason=wire_pb2.STOP if sequence.stop_reason == "stop" else wire_pb2.LENGTH,
        tokens=sequence.tokens.astype("<i4", copy=False).tobytes(),
        logprobs=_floats(sequence.logprobs),
        topk_sampled_logprobs=None if sequence.topk_logprobs is None else _topk(sequence.topk_logprobs),
    )


def _alt_tokens(drawn: PromptAltTokens) -> wire_pb2.PromptAltTokens:
    shape = drawn.tokens.shape
    raw_tokens = drawn.tokens.astype("<i4", copy=False).tobytes()
    return wire_pb2.PromptAltTokens(
        tokens=wire_pb2.Tensor(dense=raw_tokens, dtype=wire_pb2.INT32, shape=shape),
        logprobs=wire_pb2.Tensor(dense=_floats(drawn.logprobs), dtype=wire_pb2.FLOAT32, shape=shape),
    )


def _topk(topk: TopkLogprobs) -> wire_pb2.TopkLogprobs:
    length, k = topk.token_ids.shape
    return wire_pb2.TopkLogprobs(
        token_ids=topk.token_ids.astype("<i4", copy=False).tobytes(),
        logprobs=_floats(topk.logprobs),
        k=k,
        length=length,
    )


def _floats(array: np.ndarray) -> bytes:
    return array.astype("<f4", copy=False).tobytes()


def _sequence_as_json(sequence: wire_pb2.SampledSequence) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "stop_reason": "stop" if sequence.stop_reason == wire_pb2.STOP else "length",
        "tokens": np.frombuffer(sequence.tokens, "<i4").tolist(),
        "logprobs": _floats_as_json(sequence.logprobs),
    }
    if sequence.HasField("topk_sampled_logprobs"):
        answer["topk_logprobs"] = _topk_as_json(sequence.topk_sampled_logprobs)
    return answer


def _floats_as_json(raw: bytes) -> list[float | None]:
    """Logprobs as JSON numbers, with null for NaN, which JSON does not have."""
    return [None if np.isnan(value) else float(value) for value in np.frombuffer(raw, "<f4")]


def _topk_as_json(topk: wire_pb2.TopkLogprobs) -> list[list[tuple[int, float]] | None]:
    tokens = np.frombuffer(topk.token_ids, "<i4").reshape(topk.length, topk.k)
    logprobs = np.frombuffer(topk.logprobs, "<f4").reshape(topk.length, topk.k)
    rows = [
        [(int(token), float(logprob)) for token, logprob in zip(*pair, strict=True) if logprob != ABSENT_LOGPROB]
        for pair in zip(tokens, logprobs, strict=True)
    ]
    return [row or None for row in rows]
