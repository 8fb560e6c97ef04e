"""What polls are answered with, and what goes on while one waits."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import httpx
import pytest

from tests.scripted_engine import STALL
from tests.servers import RunningServer
from tests.wire import (
    PROTOBUF,
    chunk,
    loss_of,
    new_run,
    new_sampler,
    new_session,
    optim_step,
    outcome,
    post,
    sample_body,
    save,
    send_chunk,
)


@pytest.mark.conforms(30)
def test_a_poll_is_held_and_then_told_the_state_of_the_queue(http: httpx.Client):
    new_run(http)  # by then the engine has started, which is a state of its own
    stalled = post(http, "/asample", **sample_body(new_sampler(http), token=STALL))["request_id"]
    started = time.monotonic()
    answer = http.post("/retrieve_future", json={"request_id": stalled})
    assert time.monotonic() - started > 0.3  # this server holds for 0.33 to 0.5 s
    assert (answer.status_code, answer.json()["queue_state"]) == (408, "active")


@pytest.mark.conforms(33, 34)
def test_batches_and_samples_come_as_protobuf_and_all_else_as_json(http: httpx.Client):
    session_id = new_session(http)
    create = {"session_id": session_id, "model_seq_id": 0, "base_model": "tiny"}
    futures: dict[str, Any] = {"create_model": post(http, "/create_model", **create)["request_id"]}
    run = outcome(http, futures["create_model"]).json()["model_id"]
    futures["forward_backward"] = send_chunk(http, chunk(run, 1))
    futures["optim_step"] = optim_step(http, run, 2)
    for seq_id, endpoint in ((3, "save_weights"), (4, "save_weights_for_sampler"), (5, "save_weights_external")):
        futures[endpoint] = post(http, f"/{endpoint}", model_id=run, seq_id=seq_id, path="a")["request_id"]
    path = outcome(http, futures["save_weights"]).json()["path"]
    load = {"path": path, "optimizer": True}
    futures["load_weights"] = post(http, "/load_weights", model_id=run, seq_id=6, **load)["request_id"]
    futures["sample"] = post(http, "/asample", **sample_body(new_sampler(http)))["request_id"]
    bad = send_chunk(http, chunk(run, 7, token=9999))
    for kind, future in futures.items():
        answer = outcome(http, future, accept=PROTOBUF)
        is_protobuf = answer.headers["content-type"] == PROTOBUF
        assert is_protobuf == (kind in ("forward_backward", "sample")), kind
        assert is_protobuf or "error" not in answer.json(), kind
    failure = outcome(http, bad, accept=PROTOBUF)
    assert (failure.status_code, failure.headers["content-type"]) == (200, "application/json")
    assert failure.json()["category"] == "user"


@pytest.mark.conforms(43)
def test_a_repeated_save_is_one_though_its_sampler_has_another_number(http: httpx.Client):
    run = new_run(http)
    first, again = (
        post(http, "/save_weights_for_sampler", model_id=run, seq_id=1, sampling_session_seq_id=number)["request_id"]
        for number in (0, 1)
    )
    assert first == again
    outcome(http, first)
    session_id = run.partition(":")[0]
    assert len(http.get(f"/sessions/{session_id}").json()["sampler_ids"]) == 1


@pytest.mark.conforms(44, 45)
def test_a_busy_run_takes_requests_and_keeps_no_other_waiting(http: httpx.Client):
    busy, free = new_run(http), new_run(http)
    stalled = send_chunk(http, chunk(busy, 1, token=STALL))
    assert send_chunk(http, chunk(busy, 2)) != optim_step(http, busy, 3)
    assert loss_of(outcome(http, send_chunk(http, chunk(free, 1)), accept=PROTOBUF)) == 1.0
    assert outcome(http, optim_step(http, free, 2)).json()["metrics"] == {"step": 2.0}
    assert http.post("/retrieve_future", json={"request_id": stalled}).status_code == 408


@pytest.mark.conforms(71)
def test_a_model_made_from_a_checkpoint_starts_at_number_1(http: httpx.Client):
    run = new_run(http)
    path = save(http, "/save_weights", run, 1, path="a")["path"]
    session_id = run.partition(":")[0]
    load = {"session_id": session_id, "model_seq_id": 4, "path": path, "optimizer": False}
    first, again = (post(http, "/load_weights", **load)["request_id"] for _ in range(2))
    assert first == again
    loaded = outcome(http, first).json()["model_id"]
    assert loaded == f"{session_id}:train:4"
    assert post(http, "/get_info", model_id=loaded)["model_data"]["model_name"] == "tiny"
    assert loss_of(outcome(http, send_chunk(http, chunk(loaded, 1)), accept=PROTOBUF)) == 1.0


@pytest.mark.conforms(17)
def test_a_session_keeps_what_its_client_says_of_itself(server: RunningServer, http: httpx.Client):
    said = {"user_metadata": {"n": 1, "k": "v"}, "display_name": "A run", "project_id": "p", "sdk_version": "0.38.0"}
    ids = [post(http, "/create_session", tags=["a", "b"], **said)["session_id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert not any(sign in session_id for session_id in ids for sign in "/:")
    shown = http.get(f"/sessions/{ids[0]}").json()
    assert (shown["display_name"], shown["user_metadata"]) == ("A run", {"n": "1", "k": "v"})
    run = new_run(http, session_id=ids[0])
    in_project = http.get("/training_runs", params={"project_id": "p"}).json()["training_runs"]
    assert [row["training_run_id"] for row in in_project] == [run]
    with sqlite3.connect(server.data_dir / "oplog.sqlite3") as log:
        kept = log.execute("select tags, sdk_version from sessions where session_id = ?", [ids[0]]).fetchone()
    assert kept == ('["a", "b"]', "0.38.0")
