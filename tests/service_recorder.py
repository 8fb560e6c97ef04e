"""The HTTP layer over a service that only notes what it is asked: what a request means, in the words of the domain."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from eztinker.api.app import create_app
from eztinker.api.auth import API_PREFIX
from eztinker.base_models.catalog import Catalog
from eztinker.protocol.sampling_codec import WireSampleRequest
from eztinker.service.accounts.access import Keys
from eztinker.service.accounts.usage import Stored
from eztinker.service.clock import Clock
from eztinker.service.execution.plans import Done
from eztinker.service.sampling.sampling_requests import engine_request
from eztinker.settings.server_config import ServerConfig
from eztinker.types import OperationKind
from tests.servers import API_KEY, SCRIPTED_BASE_MODEL

ANSWERS: dict[str, Any] = {
    "futures.outcome": Done(kind=OperationKind.SAVE_WEIGHTS, media_type="application/json", body=b" " * (2 << 20)),
    "usage.stored": {"p": Stored(count=1, size_bytes=1), "q": Stored(count=1, size_bytes=1)},
}
"""To calls after which the request goes on; all others end it."""


class Asked(Exception):
    """Ends a request at the first thing that it asks of the service."""


@dataclass(frozen=True)
class Observed:
    """What a request came to: a call of the service, or an answer without one."""

    calls: str
    status: int | None = None
    """None where the request ended at a call."""
    text: str = ""

    @property
    def is_granted(self) -> bool:
        return self.status in (None, 200) and "refuse(" not in self.calls

    def is_refusal_of(self, field_name: str) -> bool:
        """Whether it is an error that names the field: at once, or as what a future is to fail with."""
        is_failed_future = "refuse(" in self.calls or "error=InvalidInput(" in self.calls
        refusal = self.text if self.status == 422 else self.calls if is_failed_future else ""
        return field_name.removesuffix("_params") in refusal.lower()


class RecordingService:
    """Stands where the service stands, below the routes; keys and settings are real."""

    def __init__(self, data_dir: Path) -> None:
        self.config = _config(data_dir)
        self.keys = Keys(API_KEY, data_dir)
        self.clock = Clock()
        self.polls = SimpleNamespace(held=lambda owner: contextlib.nullcontext())
        self.calls: list[str] = []

    def __getattr__(self, part: str) -> Any:
        return _Part(self, part)


class _Part:
    def __init__(self, service: RecordingService, name: str) -> None:
        self._service = service
        self._name = name

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            shown = [_domain(each) for each in arguments], {name: _domain(each) for name, each in named.items()}
            name = f"{self._name}.{method}"
            self._service.calls.append(f"{name}{shown}")
            if name not in ANSWERS:
                raise Asked
            return _ready(ANSWERS[name])

        return call


def _domain(value: Any) -> Any:
    """A sample as the engine gets it, with what the engine does not see."""
    if isinstance(value, WireSampleRequest):
        request = engine_request(value, SCRIPTED_BASE_MODEL)
        return (value.sampling_session_id, value.seq_id, value.record_stability_info, request)
    return value


async def _ready(value: Any) -> Any:
    return value


def observing(data_dir: Path) -> TestClient:
    """A client of the application over a recording service, which `observe` asks."""
    app = create_app(_config(data_dir), Catalog([SCRIPTED_BASE_MODEL]))
    app.state.service = RecordingService(data_dir)
    return TestClient(app, base_url="http://127.0.0.1", headers={"x-api-key": API_KEY})


def _config(data_dir: Path) -> ServerConfig:
    settings: dict[str, Any] = {"data_dir": data_dir}
    return ServerConfig(**settings)


def observe(client: TestClient, endpoint: str, body: Any) -> Observed:
    """What a POST of `body`, JSON or serialized protobuf, comes to."""
    if isinstance(body, bytes):
        return _observe(client, "POST", endpoint, content=body, headers={"content-type": "application/x-protobuf"})
    return _observe(client, "POST", endpoint, json=body)


def observe_query(client: TestClient, path: str, parameters: dict[str, str]) -> Observed:
    """What a GET with these parameters comes to."""
    return _observe(client, "GET", path, params=parameters)


def _observe(client: TestClient, method: str, path: str, **sent: Any) -> Observed:
    assert isinstance(client.app, FastAPI)
    service = client.app.state.service
    service.calls.clear()
    try:
        response = client.request(method, API_PREFIX + path, **sent)
    except Asked:
        return Observed("\n".join(service.calls))
    return Observed("\n".join(service.calls), response.status_code, response.text)
