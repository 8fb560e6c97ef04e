"""The Tinker API over real HTTP, by hand: what no client library would send, and what every one relies on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from fastapi.routing import APIRoute
from tests.scripted_engine import STALL
from tests.servers import API_KEY, RunningServer, serving_scripted

from eztinker.protocol import wire_pb2

PROTOBUF = "application/x-protobuf"
KEYLESS = {"/healthz", "/readyz", "/api/v1/healthz", "/api/v1/exports/{checkpoint_id}/{file_name}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(directory))
        with serving_scripted(directory, poll_hold_seconds=0.5) as running:
            yield running


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def post(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = http.post(path, json=body)
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
    promise = post(http, "/create_model", **(body | fields))
    return outcome(http, promise["request_id"]).json()["model_id"]


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


# --- who may ask ---


def policies(routes: list[Any]) -> Iterator[tuple[str, str]]:
    for route in routes:
        if isinstance(route, APIRoute):
            for method in route.methods:
                yield method, route.path


def test_every_route_but_the_listed_ones_refuses_a_stranger(server: RunningServer):
    seen = set()
    with httpx.Client(base_url=server.url) as stranger:
        for method, path in policies(all_routes(server)):
            seen.add(path)
            response = stranger.request(method, path.replace("{", "").replace("}", ""))
            assert (response.status_code == 401) == (path not in KEYLESS), (method, path, response.status_code)
    assert KEYLESS <= seen
    assert len(seen) > 25


def all_routes(server: RunningServer) -> list[Any]:
    found: list[Any] = []

    def walk(routes: list[Any], prefix: str) -> None:
        for route in routes:
            found.append(route)

    walk(server.app.routes, "")
    return found
