"""The Tinker protocol spoken by hand, for tests that send what no client library would."""

from __future__ import annotations

from typing import Any

import httpx

from eztinker.protocol import wire_pb2

PROTOBUF = "application/x-protobuf"


def post(http: httpx.Client, endpoint: str, **body: Any) -> dict[str, Any]:
    response = http.post(endpoint, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def outcome(http: httpx.Client, request_id: str, **headers: str) -> httpx.Response:
    for _ in range(40):
        response = http.post("/retrieve_future", json={"request_id": request_id}, headers=headers)
        if response.status_code != 408:
            return response
    raise AssertionError("no outcome")


def new_session(http: httpx.Client) -> str:
    return post(http, "/create_session", sdk_version="test")["session_id"]


def new_run(http: httpx.Client, **fields: Any) -> str:
    body = {"session_id": new_session(http), "model_seq_id": 0, "base_model": "tiny", "lora_config": {"rank": 4}}
    future = post(http, "/create_model", **(body | fields))
    return outcome(http, future["request_id"]).json()["model_id"]


def chunk(model_id: str, seq_id: int, token: int = 10) -> bytes:
    message = wire_pb2.ForwardBackwardRequest(model_id=model_id, seq_id=seq_id, loss_fn="cross_entropy")
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = token.to_bytes(4, "little")
    for name, dtype, raw in (("target_tokens", wire_pb2.INT64, bytes(8)), ("weights", wire_pb2.FLOAT32, bytes(4))):
        datum.loss_fn_inputs[name].CopyFrom(wire_pb2.Tensor(dense=raw, dtype=dtype, shape=[1]))
    return message.SerializeToString()


def send_chunk(http: httpx.Client, body: bytes, **headers: str) -> str:
    response = http.post("/forward_backward", content=body, headers={"content-type": PROTOBUF} | headers)
    assert response.status_code == 200, response.text
    return response.json()["request_id"]


def optim_step(http: httpx.Client, model_id: str, seq_id: int, **adam: float) -> str:
    return post(http, "/optim_step", model_id=model_id, seq_id=seq_id, adam_params=adam)["request_id"]


def loss_of(response: httpx.Response) -> float:
    assert response.headers["content-type"] == PROTOBUF
    return wire_pb2.ForwardBackwardOutput.FromString(response.content).metrics["loss:sum"]


def save(http: httpx.Client, endpoint: str, model_id: str, seq_id: int, **fields: Any) -> dict[str, Any]:
    return outcome(http, post(http, endpoint, model_id=model_id, seq_id=seq_id, **fields)["request_id"]).json()


def new_sampler(http: httpx.Client, **source: str) -> str:
    body = {"session_id": new_session(http), "sampling_session_seq_id": 0} | (source or {"base_model": "tiny"})
    return post(http, "/create_sampling_session", **body)["sampling_session_id"]


def sample_body(sampler_id: str, seq_id: int = 0, token: int = 10, **fields: Any) -> dict[str, Any]:
    return {
        "sampling_session_id": sampler_id,
        "seq_id": seq_id,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [token]}]},
        "sampling_params": {"max_tokens": 2},
    } | fields
