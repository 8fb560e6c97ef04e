"""Polls for outcomes, announcements, and giving up."""

from __future__ import annotations

import httpx
import pytest

from eztinker.api.routes import futures
from tests.scripted_engine import STALL
from tests.wire import PROTOBUF, chunk, loss_of, new_run, new_sampler, outcome, post, sample_body, send_chunk


def test_a_poll_without_an_outcome_tells_the_state_of_the_queue(http: httpx.Client):
    op_id = post(http, "/asample", **sample_body(new_sampler(http), token=STALL))["request_id"]
    answer = http.post("/retrieve_future", json={"request_id": op_id})
    assert answer.status_code == 408
    assert answer.json()["queue_state"] == "active"
    assert answer.json()["detail"]
    assert post(http, "/cancel_future", request_id=op_id) == {}
    assert outcome(http, op_id).json()["code"] == "cancelled"


def test_a_large_result_is_announced_to_whoever_allows_it(http: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    op_id = send_chunk(http, chunk(new_run(http), 1))
    whole = outcome(http, op_id, accept=PROTOBUF)
    asked = {"request_id": op_id, "allow_metadata_only": True}
    headers = {"accept": PROTOBUF}
    assert http.post("/retrieve_future", json=asked, headers=headers).content == whole.content
    monkeypatch.setattr(futures, "MAX_UNANNOUNCED_BYTES", 1)
    announced = http.post("/retrieve_future", json=asked, headers=headers).json()
    assert announced == {"status": "complete_metadata", "response_payload_size": len(whole.content)}
    assert http.post("/retrieve_future", json={"request_id": op_id}, headers=headers).content == whole.content


def test_a_client_without_protobuf_reads_the_same_as_json(http: httpx.Client):
    op_id = send_chunk(http, chunk(new_run(http), 1))
    as_json = outcome(http, op_id)
    assert as_json.headers["content-type"] == "application/json"
    assert as_json.json()["metrics"]["loss:sum"] == loss_of(outcome(http, op_id, accept=PROTOBUF)) == 1.0


def test_one_poll_announces_what_a_sampling_client_waits_for(http: httpx.Client):
    sampler = new_sampler(http)
    op_id = post(http, "/asample", **sample_body(sampler))["request_id"]
    size = len(outcome(http, op_id, accept=PROTOBUF).content)
    target = {"sampling_session_id": sampler}
    found = post(http, "/retrieve_futures", target=target)
    (completion,) = found["completions"]
    assert completion == {
        "state": "finished",
        "request_id": op_id,
        "response_payload_uncompressed_size": size,
    }
    again = post(http, "/retrieve_futures", target=target, prev_cursor=found["cursor"], timeout=0)
    assert again["completions"] == []


@pytest.mark.parametrize("timeout", [-1, -0.001])
def test_a_negative_timeout_is_refused_by_name(http: httpx.Client, timeout: float):
    target = {"sampling_session_id": new_sampler(http)}
    answer = http.post("/retrieve_futures", json={"target": target, "timeout": timeout})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "timeout")


def test_giving_up_what_nobody_knows_changes_nothing(http: httpx.Client):
    assert post(http, "/cancel_future", request_id="op-unknown") == {}
    assert http.post("/retrieve_future", json={"request_id": "op-unknown"}).status_code == 404
