"""Sessions: made once, kept alive, finished, listed."""

from __future__ import annotations

import httpx

from tests.wire import new_run, new_sampler, new_session, post


def test_a_session_is_made_once_per_idempotency_key(http: httpx.Client):
    def create(key: str | None) -> str:
        headers = {} if key is None else {"x-idempotency-key": key}
        answer = http.post("/create_session", json={"sdk_version": "test"}, headers=headers).json()
        assert answer["type"] == "create_session"
        return answer["session_id"]

    assert create("a") == create("a") != create("b")
    assert create(None) != create(None)


def test_heartbeats_end_with_the_session_and_the_first_reason_stays(http: httpx.Client):
    session_id = new_session(http)
    assert post(http, "/session_heartbeat", session_id=session_id) == {"type": "session_heartbeat"}
    for reason in ("success", "errored"):
        assert post(http, f"/sessions/{session_id}/finish", reason={"type": reason}) == {}
    assert http.post("/session_heartbeat", json={"session_id": session_id}).status_code == 410
    (found,) = post(http, "/sessions/search", session_id=session_id)["sessions"]
    assert found["status"]["reason"] == {"type": "success"}


def test_a_session_tells_what_was_made_in_it_and_what_its_client_says(http: httpx.Client):
    fields = {"sdk_version": "test", "display_name": "mine", "user_metadata": {"text": "a", "number": 1}}
    session_id = post(http, "/create_session", **fields)["session_id"]
    run = new_run(http, session_id=session_id)
    found = http.get(f"/sessions/{session_id}").json()
    assert (found["training_run_ids"], found["sampler_ids"]) == ([run], [])
    assert found["user_metadata"] == {"text": "a", "number": "1"}
    assert found["display_name"] == "mine"
    sampler = new_sampler(http)
    assert http.get(f"/sessions/{sampler.partition(':')[0]}").json()["sampler_ids"] == [sampler]


def test_sessions_are_listed_newest_first(http: httpx.Client):
    made = [new_session(http) for _ in range(3)]
    assert http.get("/sessions", params={"limit": 2}).json() == {"sessions": made[:0:-1]}
    assert http.get("/sessions", params={"limit": 1, "offset": 2}).json() == {"sessions": made[:1]}
    assert http.get("/sessions", params={"limit": -1}).status_code == 422
    assert http.get("/sessions/unknown").status_code == 404
