"""One well-formed request for every route of the API, for tests that walk over all of them.

A route without a case fails `test_every_route_has_a_case`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from tests.servers import RunningServer, key_of
from tests.wire import PROTOBUF, chunk, new_run, new_sampler, new_session, post, sample_body, save

PREFIX = "/api/v1"
KEYLESS = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", f"{PREFIX}/healthz"),
    ("GET", f"{PREFIX}/exports/{{checkpoint_id}}/{{file_name}}"),
    ("GET", f"{PREFIX}/archives/{{checkpoint_id}}"),
    ("GET", f"{PREFIX}/traces/{{session_id}}"),
    ("PUT", f"{PREFIX}/uploads/{{upload_id}}/{{file_name}}"),
    ("GET", "/{repository}/resolve/{revision}/{file_name}"),
    ("HEAD", "/{repository}/resolve/{revision}/{file_name}"),
    ("GET", "/api/models/{rest}"),
}


@dataclass(frozen=True)
class Ids:
    """One object of every kind that a request can name."""

    session_id: str
    model_id: str
    request_id: str
    sampler_id: str
    training_path: str
    sampler_path: str
    export_path: str
    upload_id: str


@dataclass(frozen=True)
class Call:
    path: str
    """After the prefix."""
    json: Any = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)

    def send(self, http: httpx.Client, method: str) -> httpx.Response:
        url = f"{http.base_url.copy_with(path='')}{self.path}"
        return http.request(
            method, url, headers=self.headers, params=self.params or None, json=self.json, content=self.content
        )


Case = Callable[[Ids, int], Call]
"""The call for these objects; the number is one that no call had before."""


def route_table(server: RunningServer) -> set[tuple[str, str]]:
    paths = server.app.openapi()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def tenant(server: RunningServer, owner: str) -> httpx.Client:
    """A client with a fresh key of `owner`."""
    return server.client(**{"x-api-key": key_of(server, owner)})


def make_ids(http: httpx.Client) -> Ids:
    """One object of every kind, made by the owner of `http`."""
    model_id = new_run(http)
    paths = [
        save(http, endpoint, model_id, seq_id, path="saved")["path"]
        for seq_id, endpoint in enumerate(("/save_weights", "/save_weights_for_sampler", "/save_weights_external"), 1)
    ]
    sampler_id = new_sampler(http, model_path=paths[1])
    return Ids(
        session_id=new_session(http),
        model_id=model_id,
        request_id=post(http, "/asample", **sample_body(sampler_id))["request_id"],
        sampler_id=sampler_id,
        training_path=paths[0],
        sampler_path=paths[1],
        export_path=paths[2],
        upload_id=post(http, "/external_weights_upload_start", base_model="tiny")["upload_id"],
    )


def unknown_ids() -> Ids:
    """Ids as the server makes them, which it has never made."""
    session_id = str(uuid4())
    model_id = f"{session_id}:train:0"
    return Ids(
        session_id=session_id,
        model_id=model_id,
        request_id=f"op-{uuid4().hex[:24]}",
        sampler_id=f"{session_id}:sample:{uuid4().hex[:16]}",
        training_path=f"tinker://{model_id}/weights/saved",
        sampler_path=f"tinker://{model_id}/sampler_weights/saved",
        export_path=f"tinker://{model_id}/external_weights/saved",
        upload_id=f"upload-{uuid4().hex}",
    )


def _posts(endpoint: str, body: Callable[[Ids, int], dict[str, Any]]) -> Case:
    return lambda ids, number: Call(f"{PREFIX}{endpoint}", json=body(ids, number))


def _asks(path: Callable[[Ids], str] | str, json: Any = None) -> Case:
    return lambda ids, number: Call(PREFIX + (path if isinstance(path, str) else path(ids)), json=json)


def _checkpoint(path: str, action: str = "") -> str:
    model_id, kind, name = path.removeprefix("tinker://").split("/")
    return f"/training_runs/{model_id}/checkpoints/{kind}/{name}{action}"


def _forward(ids: Ids, number: int) -> dict[str, Any]:
    datum = {
        "model_input": {"chunks": [{"tokens": [10]}]},
        "loss_fn_inputs": {
            "target_tokens": {"data": [10], "dtype": "int64", "shape": [1]},
            "weights": {"data": [1.0], "dtype": "float32", "shape": [1]},
        },
    }
    batch = {"data": [datum], "loss_fn": "cross_entropy"}
    return {"model_id": ids.model_id, "seq_id": number, "forward_input": batch}


def _numbered(endpoint: str, **fields: Any) -> Case:
    return _posts(endpoint, lambda ids, number: {"model_id": ids.model_id, "seq_id": number, **fields})


CASES: dict[tuple[str, str], Case] = {
    ("GET", "/healthz"): lambda ids, number: Call("/healthz"),
    ("GET", "/readyz"): lambda ids, number: Call("/readyz"),
    ("GET", f"{PREFIX}/healthz"): _asks("/healthz"),
    ("POST", f"{PREFIX}/client/config"): _asks("/client/config", {"sdk_version": "0.38.0"}),
    ("POST", f"{PREFIX}/client/dynamic_config"): _asks("/client/dynamic_config", {"sdk_version": "0.38.0"}),
    ("POST", f"{PREFIX}/telemetry"): _asks("/telemetry", {"events": []}),
    ("GET", f"{PREFIX}/get_server_capabilities"): _asks("/get_server_capabilities"),
    ("POST", f"{PREFIX}/auth/token"): _asks("/auth/token", {}),
    ("GET", f"{PREFIX}/auth/apikey/me"): _asks("/auth/apikey/me"),
    ("DELETE", f"{PREFIX}/auth/apikey/me"): _asks("/auth/apikey/me"),
    ("POST", f"{PREFIX}/create_session"): _asks(
        "/create_session", {"tags": ["t"], "user_metadata": {"k": 1}, "sdk_version": "0.38.0", "display_name": "n"}
    ),
    ("POST", f"{PREFIX}/session_heartbeat"): _posts(
        "/session_heartbeat", lambda ids, _: {"session_id": ids.session_id}
    ),
    ("POST", f"{PREFIX}/sessions/{{session_id}}/finish"): _asks(
        lambda ids: f"/sessions/{ids.session_id}/finish", {"reason": {"type": "success"}, "detail": "d"}
    ),
    ("GET", f"{PREFIX}/sessions"): _asks("/sessions"),
    ("GET", f"{PREFIX}/sessions/{{session_id}}"): _asks(lambda ids: f"/sessions/{ids.session_id}"),
    ("POST", f"{PREFIX}/create_model"): _posts(
        "/create_model",
        lambda ids, number: {
            "session_id": ids.session_id,
            "model_seq_id": number,
            "base_model": "tiny",
            "lora_config": {"rank": 4, "seed": 1, "train_mlp": True},
            "user_metadata": {"k": "v"},
            "optimizer_config": {"type": "adamw"},
        },
    ),
    ("POST", f"{PREFIX}/get_info"): _posts("/get_info", lambda ids, _: {"model_id": ids.model_id}),
    ("POST", f"{PREFIX}/unload_model"): _posts("/unload_model", lambda ids, _: {"model_id": ids.model_id}),
    ("POST", f"{PREFIX}/forward"): _posts("/forward", _forward),
    ("POST", f"{PREFIX}/forward_backward"): lambda ids, number: Call(
        f"{PREFIX}/forward_backward", content=chunk(ids.model_id, number), headers={"content-type": PROTOBUF}
    ),
    ("POST", f"{PREFIX}/optim_step"): _numbered("/optim_step", adam_params={"learning_rate": 1e-4, "beta1": 0.9}),
    ("POST", f"{PREFIX}/save_weights"): _posts(
        "/save_weights",
        lambda ids, number: {"model_id": ids.model_id, "seq_id": number, "path": f"n{number}", "ttl_seconds": 3600},
    ),
    ("POST", f"{PREFIX}/save_weights_for_sampler"): _numbered("/save_weights_for_sampler", sampling_session_seq_id=0),
    ("POST", f"{PREFIX}/save_weights_external"): _numbered("/save_weights_external", path="out", ttl_seconds=3600),
    ("POST", f"{PREFIX}/load_weights"): _posts(
        "/load_weights",
        lambda ids, number: {
            "session_id": ids.session_id,
            "model_seq_id": number,
            "path": ids.training_path,
            "optimizer": True,
        },
    ),
    ("POST", f"{PREFIX}/create_sampling_session"): _posts(
        "/create_sampling_session",
        lambda ids, number: {
            "session_id": ids.session_id,
            "sampling_session_seq_id": number,
            "model_path": ids.sampler_path,
        },
    ),
    ("POST", f"{PREFIX}/join_sampling_session"): _posts(
        "/join_sampling_session", lambda ids, _: {"sampling_session_id": ids.sampler_id}
    ),
    ("GET", f"{PREFIX}/samplers/{{sampler_id}}"): _asks(lambda ids: f"/samplers/{ids.sampler_id}"),
    ("POST", f"{PREFIX}/asample"): _posts("/asample", lambda ids, number: sample_body(ids.sampler_id, number)),
    ("POST", f"{PREFIX}/stream_sample"): _posts(
        "/stream_sample", lambda ids, number: sample_body(ids.sampler_id, number)
    ),
    ("POST", f"{PREFIX}/retrieve_future"): _posts("/retrieve_future", lambda ids, _: {"request_id": ids.request_id}),
    ("POST", f"{PREFIX}/retrieve_futures"): _posts(
        "/retrieve_futures",
        lambda ids, _: {"target": {"sampling_session_id": ids.sampler_id, "cloned_sampler_id": 0}, "timeout": 0},
    ),
    ("POST", f"{PREFIX}/cancel_future"): _posts("/cancel_future", lambda ids, _: {"request_id": ids.request_id}),
    ("GET", f"{PREFIX}/training_runs"): _asks("/training_runs"),
    ("GET", f"{PREFIX}/training_runs/{{model_id}}"): _asks(lambda ids: f"/training_runs/{ids.model_id}"),
    ("GET", f"{PREFIX}/status"): _asks("/status"),
    ("GET", f"{PREFIX}/runs"): _asks("/runs"),
    ("GET", f"{PREFIX}/runs/{{run}}"): _asks(lambda ids: f"/runs/{ids.model_id}"),
    ("PATCH", f"{PREFIX}/runs/{{run}}"): lambda ids, number: Call(
        f"{PREFIX}/runs/{ids.model_id}", json={"name": f"n{number}", "note": "a note"}
    ),
    ("GET", f"{PREFIX}/checkpoints"): _asks("/checkpoints"),
    ("GET", f"{PREFIX}/training_runs/{{model_id}}/checkpoints"): _asks(
        lambda ids: f"/training_runs/{ids.model_id}/checkpoints"
    ),
    ("DELETE", f"{PREFIX}/training_runs/{{model_id}}/checkpoints/{{kind}}/{{name}}"): _asks(
        lambda ids: _checkpoint(ids.training_path)
    ),
    ("PUT", f"{PREFIX}/training_runs/{{model_id}}/checkpoints/{{kind}}/{{name}}/ttl"): _asks(
        lambda ids: _checkpoint(ids.training_path, "/ttl"), {"ttl_seconds": 3600}
    ),
    ("GET", f"{PREFIX}/training_runs/{{model_id}}/checkpoints/{{kind}}/{{name}}/external_weights_urls"): _asks(
        lambda ids: _checkpoint(ids.export_path, "/external_weights_urls")
    ),
    ("POST", f"{PREFIX}/training_runs/{{model_id}}/checkpoints/{{kind}}/{{name}}/publish"): _asks(
        lambda ids: _checkpoint(ids.training_path, "/publish")
    ),
    ("DELETE", f"{PREFIX}/training_runs/{{model_id}}/checkpoints/{{kind}}/{{name}}/publish"): _asks(
        lambda ids: _checkpoint(ids.training_path, "/publish")
    ),
    ("GET", f"{PREFIX}/training_runs/{{model_id}}/checkpoints/{{kind}}/{{name}}/archive"): _asks(
        lambda ids: _checkpoint(ids.sampler_path, "/archive")
    ),
    ("POST", f"{PREFIX}/import_adapter"): lambda ids, number: Call(
        f"{PREFIX}/import_adapter", content=b"no archive", params={"base_model": "tiny", "name": f"n{number}"}
    ),
    ("POST", f"{PREFIX}/external_weights_upload_start"): _asks(
        "/external_weights_upload_start",
        {"base_model": "tiny", "lora_config": {"rank": 4, "train_mlp": False}, "destination_project_id": "p"},
    ),
    ("PUT", f"{PREFIX}/uploads/{{upload_id}}/{{file_name}}"): lambda ids, number: Call(
        f"{PREFIX}/uploads/upload-{'0' * 32}/adapter_config.json",
        content=b"{}",
        params={"expires": 2**33, "signature": "0" * 64},
    ),
    ("POST", f"{PREFIX}/external_weights_upload_finish"): _posts(
        "/external_weights_upload_finish", lambda ids, _: {"upload_id": ids.upload_id}
    ),
    ("POST", f"{PREFIX}/copy_weights"): _posts("/copy_weights", lambda ids, _: {"source_path": ids.training_path}),
    ("POST", f"{PREFIX}/sessions/search"): _posts(
        "/sessions/search", lambda ids, _: {"session_id": ids.session_id, "owner": {"type": "own"}, "limit": 5}
    ),
    ("PUT", f"{PREFIX}/sessions/{{session_id}}/project"): _asks(
        lambda ids: f"/sessions/{ids.session_id}/project", {"project_id": "p"}
    ),
    ("GET", f"{PREFIX}/sessions/{{session_id}}/trace_export"): _asks(
        lambda ids: f"/sessions/{ids.session_id}/trace_export"
    ),
    ("GET", f"{PREFIX}/traces/{{session_id}}"): lambda ids, number: Call(
        f"{PREFIX}/traces/{ids.session_id}", params={"expires": 2**33, "signature": "0" * 64}
    ),
    ("GET", f"{PREFIX}/audit"): _asks("/audit"),
    ("GET", f"{PREFIX}/billing/usage/events"): lambda ids, number: Call(
        f"{PREFIX}/billing/usage/events",
        params={"starting_on": "2026-01-01T00:00:00Z", "ending_before": "2026-01-02T00:00:00Z"},
    ),
    ("GET", f"{PREFIX}/billing/usage/checkpoints/current"): _asks("/billing/usage/checkpoints/current"),
    ("POST", f"{PREFIX}/weights_info"): _posts("/weights_info", lambda ids, _: {"tinker_path": ids.training_path}),
    ("GET", f"{PREFIX}/archives/{{checkpoint_id}}"): lambda ids, number: Call(
        f"{PREFIX}/archives/{'0' * 32}", params={"expires": 2**33, "signature": "0" * 64}
    ),
    ("GET", "/{repository}/resolve/{revision}/{file_name}"): lambda ids, number: Call("/tiny/resolve/main/config.json"),
    ("HEAD", "/{repository}/resolve/{revision}/{file_name}"): lambda ids, number: Call(
        "/tiny/resolve/main/config.json"
    ),
    ("GET", "/api/models/{rest}"): lambda ids, number: Call("/api/models/tiny/tree/main"),
    ("GET", f"{PREFIX}/exports/{{checkpoint_id}}/{{file_name}}"): lambda ids, number: Call(
        f"{PREFIX}/exports/{'0' * 32}/adapter_config.json", params={"expires": 2**33, "signature": "0" * 64}
    ),
}


def without_ids(text: str, *ids: Ids) -> str:
    """`text` with every id of `ids` replaced by the name of its kind, so that answers can be compared."""
    for each in ids:
        for name, value in sorted(vars(each).items(), key=lambda item: -len(item[1])):
            text = re.sub(re.escape(value), f"<{name}>", text)
    return text
