"""Futures, texts and downloads that clients may get wrong."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.refusals import refused
from tests.servers import RunningServer
from tests.wire import (
    PROTOBUF,
    chunk,
    loss_of,
    new_run,
    new_sampler,
    optim_step,
    outcome,
    post,
    sample_body,
    save,
    send_chunk,
)


@pytest.fixture(scope="module")
def module_http(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def sampler(module_http: httpx.Client) -> str:
    return new_sampler(module_http)


# Rows 23 to 25, 27, 28 and 30: order, futures, texts, downloads.


@pytest.mark.conforms(43)
def test_a_repeated_number_with_another_body_runs_once_and_is_logged(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
):
    run = new_run(http)
    futures = {send_chunk(http, chunk(run, 1, token)) for token in (10, 11)}
    assert len(futures) == 1
    assert loss_of(outcome(http, send_chunk(http, chunk(run, 2)), accept=PROTOBUF)) == 2.0
    assert reused_numbers(caplog) == [
        f"Number 1 of {run} came again with something else to do (forward_backward); "
        "it was not done, the first future holds"
    ]
    assert optim_step(http, run, 1) in futures
    assert "(optim_step)" in reused_numbers(caplog)[-1]


def test_a_repeat_of_the_same_request_is_no_news(http: httpx.Client, caplog: pytest.LogCaptureFixture):
    run = new_run(http)
    for _ in range(2):
        send_chunk(http, chunk(run, 1))
        outcome(http, optim_step(http, run, 2, learning_rate=1e-3))
        path = save(http, "/save_weights", run, 3, path="kept")["path"]
        outcome(http, post(http, "/load_weights", model_id=run, seq_id=4, path=path, optimizer=True)["request_id"])
    assert reused_numbers(caplog) == []


def reused_numbers(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if getattr(record, "event", None) == "number_reused"]


@pytest.mark.conforms(37)
def test_a_future_is_forged_pending_or_expired(server: RunningServer, http: httpx.Client, sampler: str):
    refused(http.post("/retrieve_future", json={"request_id": "op-forged"}), 404, "No such request")
    future = post(http, "/asample", **sample_body(sampler, seq_id=77))["request_id"]
    outcome(http, future)
    with sqlite3.connect(data_dir(server) / "oplog.sqlite3") as db:
        db.execute("update operations set status = 'expired', result = null where op_id = ?", [future])
    refused(http.post("/retrieve_future", json={"request_id": future}), 410, "is gone")


@pytest.mark.parametrize("text", ["<b>bold</b>", "\x1b[31mred", "a\nb", "=cmd()", "\u202eabc"])
def test_texts_come_back_as_they_were_and_nowhere_as_code(http: httpx.Client, text: str):
    body = {"user_metadata": {text: text}, "display_name": text, "tags": [text]}
    session_id = post(http, "/create_session", **body)["session_id"]
    response = http.get(f"/sessions/{session_id}")
    assert response.headers["content-type"] == "application/json"
    assert (response.json()["display_name"], response.json()["user_metadata"]) == (text, {text: text})


@pytest.mark.parametrize("field", ["display_name", "user_metadata", "tags", "sdk_version", "project_id"])
def test_texts_have_a_bounded_size(http: httpx.Client, field: str):
    long = "x" * 5000
    value = {"user_metadata": {"k": long}, "tags": [long]}.get(field, long)
    refused(http.post("/create_session", json={field: value}), 422, f"{field} may have 4096 bytes")


def test_lists_and_ids_have_a_bounded_length(http: httpx.Client):
    refused(http.post("/create_session", json={"tags": ["x"] * 65}), 422, "length <= 64")
    refused(http.post("/get_info", json={"model_id": "x" * 257}), 422, "length <= 256")


@pytest.mark.parametrize(
    "query",
    [{"limit": -1}, {"limit": 10**9}, {"limit": "x"}, {"offset": -1}, {"offset": 2**70}, {"access_scope": "all"}],
)
def test_pages_are_bounded(http: httpx.Client, query: dict[str, Any]):
    (name,) = query
    response = http.get("/training_runs", params=query)
    refused(response, 422, f"{name}: ")
    assert response.json()["error"]["field"] == name


def test_a_range_of_thousands_of_parts_is_bounded(http: httpx.Client):
    run = new_run(http)
    save(http, "/save_weights_external", run, 1, path="out")
    urls = http.get(f"/training_runs/{run}/checkpoints/external_weights/out/external_weights_urls").json()["urls"]
    parts = ",".join(f"{start}-{start}" for start in range(5000))
    assert httpx.get(urls["adapter_config.json"], headers={"range": f"bytes={parts}"}).status_code in (200, 206, 416)
    too_many = ",".join(f"{start}-{start}" for start in range(10_000))
    assert httpx.get(urls["adapter_config.json"], headers={"range": f"bytes={too_many}"}).status_code == 431


@pytest.mark.conforms(63)
def test_a_step_after_an_unload_fails_and_one_without_gradients_is_made(http: httpx.Client):
    run = new_run(http)
    assert outcome(http, optim_step(http, run, 1)).json()["metrics"] == {"step": 1.0}
    outcome(http, post(http, "/unload_model", model_id=run)["request_id"])
    assert "was unloaded" in outcome(http, optim_step(http, run, 2)).json()["error"]


def test_the_same_credential_fault_has_the_same_answer(server: RunningServer):
    """Row 1: whatever is wrong with a key."""
    wrong = ["", "tml-", "tml-1-x", "tml-999999999-x", "tml-0-x", "Bearer x", "é", "eyJ", "x" * 60_000]
    answers = set()
    for key in wrong:
        response = httpx.get(f"{server.url}/api/v1/sessions", headers={b"x-api-key": key.encode()})
        answers.add((response.status_code, response.text))
    assert len(answers) == 1
    assert json.loads(answers.pop()[1])["error"]["code"] == "unauthorized"


def data_dir(server: RunningServer) -> Path:
    return server.app.state.service.config.data_dir
