"""What becomes of a run whose client is gone: its steps are kept in a checkpoint, unless the client meant to leave."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.scripted_engine import STALL
from tests.servers import RunningServer, ServeScripted, serving_scripted, wait_until
from tests.wire import PROTOBUF, chunk, loss_of, new_run, new_session, optim_step, outcome, post, save, send_chunk

QUICK = {"poll_hold_seconds": 0.5, "session_timeout_seconds": 0.5}
PATIENT = {"poll_hold_seconds": 0.5, "session_timeout_seconds": 600}


@pytest.fixture(autouse=True)
def quick_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr("eztinker.service.service.HOUSEKEEPING_SECONDS", 0.1)


@pytest.fixture
def server(serve_scripted: ServeScripted) -> RunningServer:
    return serve_scripted(**PATIENT)


def steps(http: httpx.Client, model_id: str, *seq_ids: int) -> list[float]:
    return [outcome(http, optim_step(http, model_id, seq_id)).json()["metrics"]["step"] for seq_id in seq_ids]


def finish(http: httpx.Client, model_id: str, reason: str) -> None:
    post(http, f"/sessions/{model_id.partition(':')[0]}/finish", reason={"type": reason})


def saved(http: httpx.Client, model_id: str) -> list[dict[str, Any]]:
    return http.get(f"/training_runs/{model_id}/checkpoints").json()["checkpoints"]


def is_unloaded(server: RunningServer, model_id: str) -> bool:
    return model_id not in server.app.state.service._lanes._runs


def go_on_from(http: httpx.Client, path: str) -> str:
    load = {"session_id": new_session(http), "model_seq_id": 0, "path": path, "optimizer": True}
    return outcome(http, post(http, "/load_weights", **load)["request_id"]).json()["model_id"]


def test_steps_of_a_vanished_client_are_kept_and_a_later_client_goes_on_from_them(tmp_path: Path):
    with serving_scripted(tmp_path / "data", **QUICK) as server, server.client() as http:
        model_id = new_run(http)
        steps(http, model_id, 1, 2, 3)
        wait_until(lambda: is_unloaded(server, model_id))
        (parked,) = saved(http, model_id)
        path = f"tinker://{model_id}/weights/parked"
        assert (parked["tinker_path"], parked["checkpoint_type"]) == (path, "training")
        assert parked["expires_at"] is not None
        late = http.post("/optim_step", json={"model_id": model_id, "seq_id": 4, "adam_params": {}})
        assert late.status_code == 410
        assert f"create_training_client_from_state_with_optimizer('{path}')" in late.text
        assert steps(http, go_on_from(http, path), 1) == [4]
        events = [line for line in http.get("/audit").json()["entries"] if line["event"] == "checkpoint_create"]
        assert [line["event_details"]["by"] for line in events] == ["server"]


@pytest.mark.parametrize(("reason", "num_kept"), [("success", 0), ("errored", 1), ("interrupted", 1)])
def test_steps_are_kept_of_a_client_that_broke_down_but_not_of_one_that_was_done(
    server: RunningServer, http: httpx.Client, reason: str, num_kept: int
):
    model_id = new_run(http)
    steps(http, model_id, 1)
    finish(http, model_id, reason)
    wait_until(lambda: is_unloaded(server, model_id))
    assert len(saved(http, model_id)) == num_kept


def test_nothing_is_kept_twice_or_without_need(server: RunningServer, http: httpx.Client):
    untrained, unstepped, as_saved = new_run(http), new_run(http), new_run(http)
    outcome(http, send_chunk(http, chunk(unstepped, 1)))
    steps(http, as_saved, 1)
    save(http, "/save_weights", as_saved, 2, path="mine")
    for model_id in (untrained, unstepped, as_saved):
        finish(http, model_id, "errored")
        wait_until(lambda model_id=model_id: is_unloaded(server, model_id))
    assert [[row["checkpoint_id"] for row in saved(http, model_id)] for model_id in (untrained, unstepped)] == [[], []]
    assert [row["checkpoint_id"] for row in saved(http, as_saved)] == ["weights/mine"]


def test_a_checkpoint_that_the_client_gave_the_same_name_stays(server: RunningServer, http: httpx.Client):
    model_id = new_run(http)
    save(http, "/save_weights", model_id, 1, path="parked")
    steps(http, model_id, 2)
    finish(http, model_id, "errored")
    wait_until(lambda: is_unloaded(server, model_id))
    newest, oldest = (row["checkpoint_id"] for row in saved(http, model_id))
    assert oldest == "weights/parked"
    assert newest.startswith("weights/parked-")


def test_a_server_that_died_over_the_end_of_a_session_does_what_was_queued_and_keeps_it_when_it_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The session had been ended in the log and nothing more; its run stayed loaded for ever."""
    monkeypatch.setattr("eztinker.service.service.PARK_SECONDS", 0.1)
    with serving_scripted(tmp_path / "data", **PATIENT) as server, server.client() as http:
        model_id = new_run(http)
        steps(http, model_id, 1)
        queued = send_chunk(http, chunk(model_id, 2, token=STALL))
    with closing(sqlite3.connect(tmp_path / "data" / "oplog.sqlite3")) as db, db:
        db.execute("UPDATE sessions SET status = 'expired', end_reason = 'expired'")
    (tmp_path / "go_on").touch()
    with serving_scripted(tmp_path / "data", **PATIENT) as server, server.client() as http:
        wait_until(lambda: is_unloaded(server, model_id))
        assert loss_of(outcome(http, queued, accept=PROTOBUF)) == 2
        (parked,) = saved(http, model_id)
        assert steps(http, go_on_from(http, parked["tinker_path"]), 1) == [3]
