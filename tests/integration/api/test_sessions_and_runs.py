"""Sessions, training runs, their numbered operations and their checkpoints over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import zstandard

from tests.wire import (
    PROTOBUF,
    chunk,
    loss_of,
    new_run,
    new_session,
    optim_step,
    outcome,
    post,
    save,
    send_chunk,
)


@pytest.mark.conforms(18)
def test_a_session_is_made_once_per_idempotency_key(http: httpx.Client):
    ids = [
        http.post("/create_session", json={}, headers={"x-idempotency-key": key}).json()["session_id"]
        for key in ("k1", "k1", "k2")
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.conforms(19, 21)
def test_a_finished_session_tells_its_heartbeats_and_takes_no_more_work(http: httpx.Client):
    session_id = new_session(http)
    assert post(http, "/session_heartbeat", session_id=session_id)
    for reason in ("errored", "success"):
        post(http, f"/sessions/{session_id}/finish", reason={"type": reason}, detail=None)
    assert http.post("/session_heartbeat", json={"session_id": session_id}).status_code == 410
    body = {"session_id": session_id, "model_seq_id": 0, "base_model": "tiny"}
    assert http.post("/create_model", json=body).status_code == 410


@pytest.mark.conforms(23, 24)
def test_a_repeated_creation_is_the_same_run(http: httpx.Client):
    session_id = new_session(http)
    body: dict[str, Any] = {"session_id": session_id, "model_seq_id": 3, "base_model": "tiny"}
    first, second = (post(http, "/create_model", **body)["request_id"] for _ in range(2))
    assert first == second
    assert outcome(http, first).json()["model_id"] == f"{session_id}:train:3"


@pytest.mark.conforms(25, 29)
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"base_model": "org/unknown"}, "'org/unknown' is not served here; this server has tiny"),
        ({"base_model": "https://x.example/model"}, "'https://x.example/model' is not served here"),
        ({"base_model": "../tiny"}, "'../tiny' is not served here"),
        ({"lora_config": {"rank": 0}}, "LoRA rank must be between 1 and 512, got 0"),
        (
            {"lora_config": {"rank": 4, "train_attn": False, "train_mlp": False, "train_unembed": False}},
            "At least one of train_attn, train_mlp and train_unembed must be true",
        ),
        ({"optimizer_config": {"type": "dimuon", "version": 1}}, "Optimizer 'dimuon' is not supported"),
    ],
)
def test_an_impossible_run_is_a_future_that_fails(http: httpx.Client, fields: dict[str, Any], sentence: str):
    body: dict[str, Any] = {"session_id": new_session(http), "model_seq_id": 0, "base_model": "tiny"}
    failure = outcome(http, post(http, "/create_model", **(body | fields))["request_id"]).json()
    assert failure["category"] == "user"
    assert sentence in failure["error"]


@pytest.mark.conforms(28)
def test_a_run_says_what_it_is(http: httpx.Client):
    model_id = new_run(http)
    info = post(http, "/get_info", model_id=model_id)
    assert (info["model_id"], info["lora_rank"], info["is_lora"]) == (model_id, 4, True)
    assert info["model_data"]["model_name"] == "tiny"


@pytest.mark.conforms(39, 40)
def test_chunks_run_in_order_though_the_first_comes_last(http: httpx.Client):
    model_id = new_run(http)
    third, second = send_chunk(http, chunk(model_id, 3)), send_chunk(http, chunk(model_id, 2))
    waiting = http.post("/retrieve_future", json={"request_id": second})
    assert (waiting.status_code, waiting.json()["queue_state"]) == (408, "active")
    first = send_chunk(http, chunk(model_id, 1))
    losses = [loss_of(outcome(http, op, accept=PROTOBUF)) for op in (first, second, third)]
    assert losses == [1.0, 2.0, 3.0]  # the engine counts the operations of a run


@pytest.mark.conforms(41)
def test_a_missing_number_does_not_block_an_operation_that_is_never_chunked(http: httpx.Client):
    model_id = new_run(http)
    assert outcome(http, optim_step(http, model_id, 5)).json()["metrics"] == {"step": 1.0}
    late = outcome(http, send_chunk(http, chunk(model_id, 4))).json()
    assert (late["category"], late["code"]) == ("user", "sequence_gap")


@pytest.mark.conforms(43)
def test_a_repeat_gets_the_same_future_and_runs_once(http: httpx.Client):
    model_id = new_run(http)
    futures = {send_chunk(http, chunk(model_id, 1, token)) for token in (10, 11)}
    assert len(futures) == 1
    assert loss_of(outcome(http, send_chunk(http, chunk(model_id, 2)), accept=PROTOBUF)) == 2.0


@pytest.mark.conforms(32)
def test_a_result_can_be_fetched_more_than_once_and_as_json_by_older_clients(http: httpx.Client):
    model_id = new_run(http)
    op_id = send_chunk(http, chunk(model_id, 1))
    assert loss_of(outcome(http, op_id, accept=PROTOBUF)) == 1.0
    as_json = outcome(http, op_id, accept="application/json").json()
    assert as_json["metrics"] == {"loss:sum": 1.0}
    assert as_json["loss_fn_outputs"][0]["logprobs"] == {"data": [-1.0], "dtype": "float32", "shape": [1]}


@pytest.mark.conforms(34, 35, 42)
def test_bad_content_fails_its_future_and_the_run_goes_on(http: httpx.Client):
    model_id = new_run(http)
    failure = outcome(http, send_chunk(http, chunk(model_id, 1, token=9999)), accept=PROTOBUF).json()
    assert (failure["category"], failure["code"]) == ("user", "invalid_input")
    assert "token 9999 at position 0 is not in the vocabulary" in failure["error"]
    bad = outcome(http, optim_step(http, model_id, 2, learning_rate=-1.0)).json()
    assert "learning_rate must not be negative, got -1.0" in bad["error"]
    wrong_type = post(http, "/optim_step", model_id=model_id, seq_id=3, adam_params={"beta1": "x"})
    assert "beta1" in outcome(http, wrong_type["request_id"]).json()["error"]
    assert outcome(http, optim_step(http, model_id, 4)).json()["metrics"] == {"step": 1.0}


@pytest.mark.conforms(9, 10)
def test_compressed_bodies_are_read_and_broken_ones_refused(http: httpx.Client):
    model_id = new_run(http)
    frame = zstandard.compress(chunk(model_id, 1))
    headers = {"content-type": PROTOBUF, "content-encoding": "zstd"}
    assert http.post("/forward_backward", content=frame[:-4], headers=headers).status_code == 400
    op_id = send_chunk(http, frame, **{"content-encoding": "zstd"})
    assert loss_of(outcome(http, op_id, accept=PROTOBUF)) == 1.0
    bomb = zstandard.compress(bytes(200 << 20))
    assert http.post("/forward_backward", content=bomb, headers=headers).status_code == 413
    assert http.post("/forward_backward", content=b"\xff", headers={"content-type": PROTOBUF}).status_code == 400


def test_an_unloaded_run_takes_no_more_operations(http: httpx.Client):
    model_id = new_run(http)
    assert outcome(http, post(http, "/unload_model", model_id=model_id)["request_id"]).json()["model_id"] == model_id
    failure = outcome(http, optim_step(http, model_id, 1)).json()
    assert "was unloaded" in failure["error"]


@pytest.mark.conforms(65, 75)
def test_a_checkpoint_is_listed_kept_and_deleted(http: httpx.Client):
    model_id = new_run(http)
    path = f"tinker://{model_id}/weights/a.1"
    saved = save(http, "/save_weights", model_id, 1, path="a.1", user_metadata={"k": "v"}, ttl_seconds=3600)
    assert saved["path"] == path
    (listed,) = http.get(f"/training_runs/{model_id}/checkpoints").json()["checkpoints"]
    assert (listed["tinker_path"], listed["checkpoint_type"], listed["user_metadata"]) == (path, "training", {"k": "v"})
    assert listed["expires_at"].endswith("+00:00")
    url = f"/training_runs/{model_id}/checkpoints/weights/a.1"
    assert http.put(f"{url}/ttl", json={"ttl_seconds": None}).status_code == 200
    assert http.get("/checkpoints").json()["checkpoints"][0]["expires_at"] is None
    assert http.get(f"/training_runs/{model_id}").json()["last_checkpoint"]["tinker_path"] == path
    assert [http.delete(url).status_code for _ in range(2)] == [200, 404]


@pytest.mark.conforms(66)
def test_a_taken_name_fails_unless_it_may_be_overwritten(http: httpx.Client):
    model_id = new_run(http)
    save(http, "/save_weights", model_id, 1, path="a")
    assert "exists already" in save(http, "/save_weights", model_id, 2, path="a")["error"]
    assert save(http, "/save_weights", model_id, 3, path="a", overwrite=True)["path"].endswith("/weights/a")


@pytest.mark.conforms(72)
@pytest.mark.parametrize(
    ("endpoint", "fields", "sentence"),
    [
        ("/save_weights", {"path": "../x"}, "A checkpoint name has"),
        ("/save_weights", {"path": "a", "ttl_seconds": 5}, "ttl_seconds must be between 3600"),
        (
            "/save_weights_for_sampler",
            {"path": "a", "kind": "inflight"},
            "A save of kind 'inflight' has no path",
        ),
        ("/save_weights_external", {"path": "a", "age_encryption_recipients": ["age1x"]}, "age_encryption_recipients"),
        ("/load_weights", {"path": "tinker://x/weights/y", "optimizer": True}, "No checkpoint at tinker://x/weights/y"),
        ("/load_weights", {"path": "file:///etc/passwd", "optimizer": True}, "A checkpoint path is tinker://"),
    ],
)
def test_what_cannot_be_saved_or_loaded_fails_its_future(
    http: httpx.Client, endpoint: str, fields: dict[str, Any], sentence: str
):
    failure = save(http, endpoint, new_run(http), 1, **fields)
    assert failure["category"] == "user"
    assert sentence in failure["error"]


def test_an_export_is_fetched_without_a_key_but_not_with_a_forged_link(http: httpx.Client):
    model_id = new_run(http)
    save(http, "/save_weights_external", model_id, 1, path="out")
    answer = http.get(f"/training_runs/{model_id}/checkpoints/external_weights/out/external_weights_urls").json()
    assert list(answer["urls"]) == ["adapter_config.json"]
    link = answer["urls"]["adapter_config.json"]
    assert httpx.get(link).text == "{}"
    assert httpx.get(link[:-1] + ("0" if link[-1] != "0" else "1")).status_code == 404
    assert httpx.get(link.replace("adapter_config.json", "manifest.json")).status_code == 404
    assert httpx.get(link.replace("expires=1", "expires=2")).status_code == 404
