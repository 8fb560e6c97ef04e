"""Who may ask, from where, and what a body may be."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.servers import API_KEY, RunningServer


@pytest.mark.conforms(2, 3)
def test_every_wrong_key_gets_the_same_answer_and_changes_nothing(server: RunningServer, http: httpx.Client):
    before = http.get("/sessions").json()
    answers = {
        httpx.post(f"{server.url}/api/v1/create_session", json={}, headers=headers).text
        for headers in ({}, {"x-api-key": "tml-wrong"}, {"x-api-key": API_KEY + "x"}, {"x-api-key": "x" * 60_000})
    }
    assert len(answers) == 1
    assert '"code":"unauthorized"' in answers.pop()
    assert http.get("/sessions").json() == before


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost/v1?x", "a#b", "[::1", ""])
def test_names_that_are_not_this_machine_are_refused(http: httpx.Client, host: str):
    assert http.get("/sessions", headers={"host": host}).status_code in (400, 403)


def test_local_names_are_answered(http: httpx.Client):
    for host in ("localhost:1", "127.0.0.1", "[::1]:8000"):
        assert http.get("/sessions", headers={"host": host}).status_code == 200


def test_a_foreign_page_cannot_change_anything(server: RunningServer, http: httpx.Client):
    foreign = http.post("/create_session", json={}, headers={"origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in foreign.headers
    assert http.post("/create_session", json={}, headers={"origin": server.url}).status_code == 200


@pytest.mark.conforms(6, 7)
@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/create_session", b"{", 400, "must be JSON"),
        ("/create_session", b"[]", 400, "must be a JSON object, got list"),
        ("/create_session", b'{"a":' * 10_000, 400, "must be JSON"),
        ("/create_session", b'{"tags": [NaN]}', 400, "must be JSON"),
        ("/create_session", b"\xff", 400, "must be JSON"),
        ("/create_session", b'{"color": "red"}', 422, "Unknown fields in the request: color"),
        ("/create_session", b'{"display_name": "' + b"x" * 5000 + b'"}', 422, "display_name may have 4096 bytes"),
        ("/session_heartbeat", b"{}", 422, "missing required field `session_id`"),
        ("/session_heartbeat", b'{"session_id": "nope"}', 404, "No such session"),
        ("/retrieve_future", b'{"request_id": "op-forged"}', 404, "No such request"),
        ("/get_info", b'{"model_id": "nope"}', 404, "No such training run"),
        ("/optim_step", b'{"model_id": "nope", "seq_id": 1}', 404, "No such training run"),
        ("/optim_step", b'{"model_id": "nope", "seq_id": true}', 422, "seq_id of at least 1"),
        ("/weights_info", b'{"tinker_path": "tinker://a/weights/b"}', 404, "there is no training run"),
    ],
)
def test_a_bad_body_gets_a_sentence(http: httpx.Client, path: str, body: bytes, status: int, sentence: str):
    response = http.post(path, content=body)
    assert response.status_code == status
    assert sentence in response.json()["detail"]
    assert response.json()["error"]["message"] == response.json()["detail"]
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.conforms(6)
def test_a_new_field_that_is_off_is_no_reason_to_refuse(http: httpx.Client):
    assert http.post("/create_session", json={"color": None, "size": 0, "list": []}).status_code == 200


def test_a_body_over_the_limit_is_refused_before_it_is_read(http: httpx.Client):
    assert http.post("/create_session", content=b" " * (2 << 20)).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 16)

    assert http.post("/create_session", content=endless()).status_code == 413


@pytest.mark.conforms(7)
def test_unknown_paths_and_methods_get_json(http: httpx.Client):
    assert (http.get("/nothing").status_code, http.get("/nothing").json()["error"]["code"]) == (404, "not_found")
    assert http.delete("/create_session").status_code == 405
