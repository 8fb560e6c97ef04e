"""Sampling sessions, samples, and samples that are told while they are drawn."""

from __future__ import annotations

import httpx
import orjson

from tests.wire import new_run, new_sampler, new_session, outcome, post, sample_body, save


def test_a_sampling_session_is_made_once_per_number_and_says_what_it_samples_from(http: httpx.Client):
    body = {"session_id": new_session(http), "sampling_session_seq_id": 0, "base_model": "tiny"}
    first, again = (post(http, "/create_sampling_session", **body) for _ in range(2))
    assert first == again == {"type": "create_sampling_session", "sampling_session_id": first["sampling_session_id"]}
    found = http.get(f"/samplers/{first['sampling_session_id']}").json()
    assert (found["base_model"], found["model_path"]) == ("tiny", None)
    path = save(http, "/save_weights_for_sampler", new_run(http), 1, path="a")["path"]
    assert http.get(f"/samplers/{new_sampler(http, model_path=path)}").json()["model_path"] == path


def test_copies_of_a_client_are_numbered_from_one(http: httpx.Client):
    sampler = new_sampler(http)
    joined = [post(http, "/join_sampling_session", sampling_session_id=sampler) for _ in range(3)]
    assert [each["client_counter"] for each in joined] == [1, 2, 3]


def test_a_sample_is_a_future_with_an_id_for_each_sequence(http: httpx.Client):
    future = post(http, "/asample", **sample_body(new_sampler(http), token=20, num_samples=2))
    assert len(set(future["sample_sequence_ids"])) == 2
    sequences = outcome(http, future["request_id"]).json()["sequences"]
    assert [each["tokens"] for each in sequences] == [[21, 22]] * 2


def test_a_streamed_sample_comes_in_lines_of_which_the_last_says_why_it_ended(http: httpx.Client):
    body = sample_body(new_sampler(http), token=20)
    with http.stream("POST", "/stream_sample", json=body) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [orjson.loads(line) for line in answer.iter_lines()]
    assert [token for line in lines for token in line["tokens"]] == [21, 22]
    assert lines[-1]["stop_reason"] == "length"
    assert not any("stop_reason" in line for line in lines[:-1])


def test_a_sample_that_cannot_be_is_refused_before_a_future_is_made(http: httpx.Client):
    for endpoint in ("/asample", "/stream_sample"):
        too_long = sample_body(new_sampler(http)) | {"sampling_params": {"max_tokens": 1000}}
        answer = http.post(endpoint, json=too_long)
        assert answer.status_code == 400
        assert "64" in answer.json()["detail"]
