"""Samples and held polls over HTTP."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from eztinker.protocol import wire_pb2
from tests.scripted_engine import STALL
from tests.servers import RunningServer, serving_scripted
from tests.wire import (
    PROTOBUF,
    chunk,
    loss_of,
    new_run,
    new_sampler,
    new_session,
    outcome,
    post,
    sample_body,
    save,
    send_chunk,
)


@pytest.mark.conforms(33, 79)
def test_a_sample_carries_one_id_per_sequence(http: httpx.Client):
    future = post(http, "/asample", **sample_body(new_sampler(http), num_samples=3))
    assert len(set(future["sample_sequence_ids"])) == 3
    response = outcome(http, future["request_id"], accept=PROTOBUF)
    assert len(wire_pb2.SampleResponse.FromString(response.content).sequences) == 3
    as_json = outcome(http, future["request_id"]).json()
    assert as_json["sequences"][0] == {"stop_reason": "length", "tokens": [11, 12], "logprobs": [-1.0, -1.0]}


@pytest.mark.conforms(88)
def test_sample_numbers_have_64_bits_and_a_repeat_is_the_same_sample(http: httpx.Client):
    sampler_id = new_sampler(http)
    body = sample_body(sampler_id, seq_id=576082545000000000)
    assert post(http, "/asample", **body) == post(http, "/asample", **body)
    assert post(http, "/asample", **sample_body(sampler_id, seq_id=576082545000000001)) != post(
        http, "/asample", **body
    )


@pytest.mark.conforms(68, 92)
def test_a_sampler_from_a_run_knows_its_base_model_and_path(http: httpx.Client):
    model_id = new_run(http)
    unnamed = save(http, "/save_weights_for_sampler", model_id, 1, sampling_session_seq_id=0)["sampling_session_id"]
    assert http.get(f"/samplers/{unnamed}").json() == {"sampler_id": unnamed, "base_model": "tiny", "model_path": None}
    path = save(http, "/save_weights_for_sampler", model_id, 2, path="s")["path"]
    named = new_sampler(http, model_path=path)
    assert http.get(f"/samplers/{named}").json()["model_path"] == path
    assert [row["tinker_path"] for row in http.get(f"/training_runs/{model_id}/checkpoints").json()["checkpoints"]] == [
        path
    ]
    assert post(http, "/asample", **sample_body(unnamed))["request_id"]


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"sampling_params": {"max_tokens": 64}}, 400, "1 tokens and max_tokens is 64; together they exceed"),
        ({"sampling_params": {"max_tokens": -1}}, 422, "max_tokens must be at least 1, got -1"),
        ({"prompt": {"chunks": [{"type": "image", "data": "", "format": "png"}]}}, 422, "'image' chunks"),
        ({"base_model": "tiny"}, 422, "base_model is not supported"),
        ({"sampling_session_id": "nope"}, 404, "No such sampling session"),
    ],
)
def test_an_impossible_sample_is_refused_at_once(
    http: httpx.Client, fields: dict[str, Any], status: int, sentence: str
):
    response = http.post("/asample", json=sample_body(new_sampler(http)) | fields)
    assert response.status_code == status
    assert sentence in response.json()["detail"]


def test_only_served_models_and_sampler_checkpoints_can_be_sampled(http: httpx.Client):
    session_id = new_session(http)
    body = {"session_id": session_id, "sampling_session_seq_id": 0}
    unknown = http.post("/create_sampling_session", json=body | {"base_model": "../etc"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_served")
    model_id = new_run(http)
    path = save(http, "/save_weights", model_id, 1, path="w")["path"]
    assert http.post("/create_sampling_session", json=body | {"model_path": path}).status_code == 422


@pytest.mark.conforms(31)
def test_a_result_wakes_a_held_poll_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    with serving_scripted(tmp_path / "data", poll_hold_seconds=40) as server, server.client() as http:
        model_id = new_run(http)
        second = send_chunk(http, chunk(model_id, 2))
        body, headers = {"request_id": second}, {"accept": PROTOBUF}
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(http.post, "/retrieve_future", json=body, headers=headers)
            time.sleep(0.1)  # let the poll arrive and be held
            send_chunk(http, chunk(model_id, 1))
            assert loss_of(held.result(timeout=15)) == 2.0  # long before the next poll could have come


def test_hundreds_of_held_polls_leave_the_server_quick(server: RunningServer, http: httpx.Client):
    model_id = new_run(http)
    stalled = send_chunk(http, chunk(model_id, 1, token=STALL))
    limits = httpx.Limits(max_connections=300)
    with (
        httpx.Client(base_url=http.base_url, headers=http.headers, limits=limits, timeout=20) as many,
        ThreadPoolExecutor(200) as pool,
    ):
        polls = [pool.submit(many.post, "/retrieve_future", json={"request_id": stalled}) for _ in range(200)]
        assert http.get(f"{server.url}/healthz").json() == {"status": "ok"}
        assert {poll.result().status_code for poll in polls} == {408}
