"""What a client asks before it does anything else."""

from __future__ import annotations

import httpx
import pytest

from eztinker.api.routes import clients


@pytest.mark.parametrize("path", ["/client/config", "/client/dynamic_config"])
@pytest.mark.parametrize("body", [b"", b"{}", b'{"newest": [1, 2]}', b"no JSON"])
def test_whatever_a_client_says_of_itself_it_gets_its_flags(http: httpx.Client, path: str, body: bytes):
    answer = http.post(path, content=body)
    assert answer.status_code == 200
    assert answer.json() == http.post(path).json()
    assert all(isinstance(value, bool | int) for value in answer.json().values())


def test_served_models_are_listed_with_their_context(http: httpx.Client):
    tiny = {"model_name": "tiny", "max_context_length": 64, "trainable": True, "sampleable": True}
    assert http.get("/get_server_capabilities").json() == {"supported_models": [tiny]}


def test_telemetry_is_taken_whatever_it_is_up_to_a_size(http: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clients, "MAX_TELEMETRY_BYTES", 100)
    assert http.post("/telemetry", content=bytes(100)).json() == {"status": "accepted"}
    assert http.post("/telemetry", content=bytes(101)).status_code == 413
