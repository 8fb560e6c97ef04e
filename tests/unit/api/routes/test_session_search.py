"""Sessions in hindsight: search, projects and traces."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as perfetto

from tests.wire import new_run, post


def named(http: httpx.Client, name: str) -> str:
    return post(http, "/create_session", sdk_version="test", display_name=name)["session_id"]


def test_sessions_are_found_page_by_page_newest_first(http: httpx.Client):
    made = [named(http, f"pages {number}") for number in range(3)]
    first = post(http, "/sessions/search", display_name="pages", limit=2)
    rest = post(http, "/sessions/search", display_name="pages", limit=2, cursor=first["next_cursor"])
    found = [session["session_id"] for page in (first, rest) for session in page["sessions"]]
    assert found == made[::-1]
    assert rest["next_cursor"] is None


def test_a_found_session_is_told_with_its_state_and_what_it_stores(http: httpx.Client):
    session_id = named(http, "summary")
    (found,) = post(http, "/sessions/search", session_id=session_id)["sessions"]
    assert (found["owner"], found["display_name"], found["status"]) == ("local", "summary", {"type": "active"})
    assert (found["checkpoints_count"], found["checkpoint_storage_bytes"]) == (0, 0)
    assert datetime.fromisoformat(found["created_at"]) <= datetime.now(UTC)
    post(http, f"/sessions/{session_id}/finish", reason={"type": "errored"}, detail="no luck")
    (over,) = post(http, "/sessions/search", session_id=session_id)["sessions"]
    assert over["status"] == {"type": "client_finished", "reason": {"type": "errored"}, "detail": "no luck"}


def test_nobody_sees_the_sessions_of_others(http: httpx.Client):
    session_id = named(http, "own")
    for owner, is_found in (({"type": "own"}, True), ({"type": "user", "owner_urns": ["eve"]}, False)):
        found = post(http, "/sessions/search", session_id=session_id, owner=owner)["sessions"]
        assert bool(found) is is_found


def test_a_session_is_put_into_a_project_and_found_there(http: httpx.Client):
    session_id = named(http, "project")
    assert http.put(f"/sessions/{session_id}/project", json={"project_id": "p"}).json() == {}
    (found,) = post(http, "/sessions/search", project_ids=["p"])["sessions"]
    assert (found["session_id"], found["project_id"]) == (session_id, "p")


def test_the_trace_of_a_session_needs_its_link_and_no_key(http: httpx.Client):
    session_id = new_run(http).partition(":")[0]
    link = http.get(f"/sessions/{session_id}/trace_export").json()
    assert link["status"] == "ready"
    trace = perfetto.Trace.FromString(httpx.get(link["url"]).content)
    assert any(packet.HasField("track_event") for packet in trace.packet)
    assert httpx.get(link["url"].replace("signature=", "signature=0")).status_code == 404
    assert http.get("/sessions/unknown/trace_export").status_code == 404
