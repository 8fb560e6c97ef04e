"""Saved checkpoints: how they are listed, and what can be done to one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.route_cases import tenant
from tests.servers import RunningServer
from tests.wire import new_run, post, save


@pytest.fixture
def run(http: httpx.Client) -> str:
    """A run with one saved state."""
    model_id = new_run(http)
    save(http, "/save_weights", model_id, 1, path="a")
    return model_id


def listed(http: httpx.Client, run: str) -> list[dict[str, Any]]:
    return http.get(f"/training_runs/{run}/checkpoints").json()["checkpoints"]


def test_a_saved_state_is_listed_with_its_run_and_among_all(http: httpx.Client, run: str):
    (checkpoint,) = listed(http, run)
    assert checkpoint["tinker_path"] == f"tinker://{run}/weights/a"
    assert (checkpoint["checkpoint_id"], checkpoint["checkpoint_type"]) == ("weights/a", "training")
    assert (checkpoint["base_model"], checkpoint["size_bytes"], checkpoint["public"]) == ("tiny", 2, False)
    assert checkpoint["expires_at"] is None
    everything = http.get("/checkpoints", params={"limit": 1}).json()
    assert everything["checkpoints"] == [checkpoint]
    assert everything["cursor"] | {"total_count": 1} == {"offset": 0, "limit": 1, "total_count": 1}


def test_a_lifetime_is_set_and_taken_away(http: httpx.Client, run: str):
    before = datetime.now(UTC)
    assert http.put(f"/training_runs/{run}/checkpoints/weights/a/ttl", json={"ttl_seconds": 3600}).json() == {}
    expires_at = datetime.fromisoformat(listed(http, run)[0]["expires_at"])
    assert timedelta(seconds=3600) <= expires_at - before < timedelta(seconds=3630)
    http.put(f"/training_runs/{run}/checkpoints/weights/a/ttl", json={"ttl_seconds": None})
    assert listed(http, run)[0]["expires_at"] is None


def test_only_what_is_published_is_found_by_others(server: RunningServer, http: httpx.Client, run: str):
    place, asked = f"/training_runs/{run}/checkpoints/weights/a/publish", {"tinker_path": f"tinker://{run}/weights/a"}
    with tenant(server, "bob") as bob:
        assert bob.post("/weights_info", json=asked).status_code == 404
        http.post(place)
        assert post(bob, "/weights_info", **asked)["lora_rank"] == 4
        assert bob.delete(place).status_code == 404
        http.delete(place)
        assert bob.post("/weights_info", json=asked).status_code == 404


def test_a_checkpoint_is_deleted_once(http: httpx.Client, run: str):
    place = f"/training_runs/{run}/checkpoints/weights/a"
    assert [http.delete(place).status_code for _ in range(2)] == [200, 404]
    assert listed(http, run) == []


def test_the_files_of_an_export_need_their_link_and_no_key(http: httpx.Client, run: str):
    save(http, "/save_weights_external", run, 2, path="out")
    place = f"/training_runs/{run}/checkpoints/external_weights/out/external_weights_urls"
    answer = http.get(place).json()
    assert list(answer["urls"]) == ["adapter_config.json"]
    url = answer["urls"]["adapter_config.json"]
    assert httpx.get(url).content == b"{}"
    assert httpx.get(url.replace("signature=", "signature=0")).status_code == 404
    assert httpx.get(url.replace("adapter_config.json", "manifest.json")).status_code == 404
    lasts = datetime.fromisoformat(answer["expires"]) - datetime.now(UTC)
    assert timedelta(minutes=55) < lasts <= timedelta(hours=1)


def test_weights_are_copied_into_a_run_of_their_own(http: httpx.Client, run: str):
    path = f"tinker://{run}/weights/a"
    session_id = post(http, "/create_session", sdk_version="test")["session_id"]
    copy = post(http, "/copy_weights", source_path=path, session_id=session_id, model_seq_id=0)["tinker_path"]
    assert copy.startswith(f"tinker://{session_id}:train:0/weights/")
    assert post(http, "/weights_info", tinker_path=copy) == post(http, "/weights_info", tinker_path=path)
