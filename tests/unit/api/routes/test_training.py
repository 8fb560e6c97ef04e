"""Training runs and their numbered operations."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.wire import PROTOBUF, chunk, loss_of, new_run, new_session, optim_step, outcome, post, save, send_chunk


def test_a_run_is_a_future_that_ends_in_its_id_and_tells_what_it_is(http: httpx.Client):
    session_id = new_session(http)
    body = {"session_id": session_id, "model_seq_id": 3, "base_model": "tiny", "lora_config": {"rank": 2}}
    future = post(http, "/create_model", **body)
    assert future["model_id"] == f"{session_id}:train:3"
    assert outcome(http, future["request_id"]).json()["model_id"] == future["model_id"]
    info = post(http, "/get_info", model_id=future["model_id"])
    assert (info["model_name"], info["lora_rank"], info["is_lora"]) == ("tiny", 2, True)
    assert info["optimizer_config"] == {"type": "adamw"}


def test_numbered_operations_run_in_the_order_of_their_numbers(http: httpx.Client):
    run = new_run(http)
    first, second = send_chunk(http, chunk(run, 1)), optim_step(http, run, 2, learning_rate=1e-3)
    assert loss_of(outcome(http, first, accept=PROTOBUF)) == 1.0
    assert outcome(http, second).json()["metrics"] == {"step": 2.0}


@pytest.mark.parametrize("endpoint", ["/optim_step", "/save_weights", "/save_weights_for_sampler", "/load_weights"])
@pytest.mark.parametrize("bad", [{"seq_id": 0}, {"seq_id": True}, {"seq_id": "1"}, {"seq_id": None}, {"model_id": 5}])
def test_without_a_run_and_a_number_there_is_no_future(http: httpx.Client, endpoint: str, bad: dict[str, Any]):
    answer = http.post(endpoint, json={"model_id": "m", "seq_id": 1, "path": "a"} | bad)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "seq_id")


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("/optim_step", {"adam_params": {"learning_rate": "fast"}}),
        ("/optim_step", {"adam_params": {}, "newest": 1}),
        ("/save_weights", {"path": 7}),
        ("/load_weights", {"path": "tinker://x/weights/y", "optimizer": False, "base_model": "tiny"}),
    ],
)
def test_a_number_with_something_wrong_is_a_future_that_fails_and_the_next_one_runs(
    http: httpx.Client, endpoint: str, fields: dict[str, Any]
):
    run = new_run(http)
    failed = outcome(http, post(http, endpoint, model_id=run, seq_id=1, **fields)["request_id"]).json()
    assert failed["category"] == "user"
    assert failed["error"]
    assert loss_of(outcome(http, send_chunk(http, chunk(run, 2)), accept=PROTOBUF)) == 1.0


def test_saves_of_each_kind_give_a_path_that_says_so_and_a_load_takes_it(http: httpx.Client):
    run = new_run(http)
    kinds = {"save_weights": "weights", "save_weights_for_sampler": "sampler_weights"}
    kinds |= {"save_weights_external": "external_weights"}
    for seq_id, (endpoint, kind) in enumerate(kinds.items(), 1):
        assert save(http, f"/{endpoint}", run, seq_id, path="a")["path"] == f"tinker://{run}/{kind}/a"
    path = f"tinker://{run}/weights/a"
    assert save(http, "/load_weights", run, 4, path=path, optimizer=False)["path"] == path
    new = {"session_id": new_session(http), "model_seq_id": 0, "path": path, "optimizer": True}
    future = post(http, "/load_weights", **new)
    assert outcome(http, future["request_id"]).json()["model_id"] == future["model_id"] != run


def test_a_load_is_into_one_model_or_into_a_new_one(http: httpx.Client):
    answer = http.post("/load_weights", json={"session_id": "s", "path": "tinker://x/weights/y", "optimizer": True})
    assert answer.status_code == 422
    assert "session_id and model_seq_id, or model_id and seq_id" in answer.json()["detail"]


def test_an_unloaded_run_takes_no_more_work(http: httpx.Client):
    run = new_run(http)
    outcome(http, post(http, "/unload_model", model_id=run)["request_id"])
    refused = outcome(http, send_chunk(http, chunk(run, 1))).json()
    assert refused["category"] == "user"
    assert "unloaded" in refused["error"]
