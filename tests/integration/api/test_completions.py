"""One poll for all samples of a client, and giving samples up."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import tinker
from tinker import types

from eztinker.base_models.catalog import Catalog
from tests.scripted_engine import STALL
from tests.servers import API_KEY, SCRIPTED_BASE_MODEL, RunningServer, serving, serving_scripted, wait_until
from tests.wire import PROTOBUF, chunk, loss_of, new_run, new_sampler, outcome, post, sample_body, send_chunk

CLONE = 1_000_000_000


def sampled(http: httpx.Client, sampler_id: str, seq_id: int, token: int = 10) -> str:
    return post(http, "/asample", **sample_body(sampler_id, seq_id, token))["request_id"]


def announced(http: httpx.Client, sampler_id: str, clone: int = 0, **fields: Any) -> dict[str, Any]:
    target = {"type": "sampling_session", "sampling_session_id": sampler_id, "cloned_sampler_id": clone}
    return post(http, "/retrieve_futures", **({"target": target, "prev_cursor": 0, "timeout": 0} | fields))


def ids_in(announcement: dict[str, Any]) -> list[str]:
    return [completion["request_id"] for completion in announcement["completions"]]


# --- one poll for all ---


@pytest.mark.conforms(89)
def test_each_completion_is_announced_once_with_its_size(http: httpx.Client):
    sampler_id = new_sampler(http)
    first = [sampled(http, sampler_id, seq_id) for seq_id in range(3)]
    payloads = {op_id: outcome(http, op_id, accept=PROTOBUF).content for op_id in first}
    announcement = announced(http, sampler_id)
    assert sorted(ids_in(announcement)) == sorted(first)
    for completion in announcement["completions"]:
        assert completion["state"] == "finished"
        assert completion["response_payload_uncompressed_size"] == len(payloads[completion["request_id"]])
    cursor = announcement["cursor"]
    assert announced(http, sampler_id, prev_cursor=cursor) == {"completions": [], "cursor": cursor}
    later = sampled(http, sampler_id, 3)
    outcome(http, later, accept=PROTOBUF)
    assert ids_in(announced(http, sampler_id, prev_cursor=cursor)) == [later]
    assert len(ids_in(announced(http, sampler_id))) == 4, "from the beginning for who lost its place"


@pytest.mark.conforms(89)
def test_a_completion_wakes_a_held_poll_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    with serving_scripted(tmp_path / "data", poll_hold_seconds=20) as server, server.client() as http:
        sampler_id = new_sampler(http)
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(announced, http, sampler_id, timeout=None)
            time.sleep(0.1)  # let the poll arrive and be held
            op_id = sampled(http, sampler_id, 0)
            assert ids_in(held.result(timeout=5)) == [op_id]


def test_a_poll_without_news_comes_back_after_its_hold(http: httpx.Client):
    sampler_id = new_sampler(http)
    sampled(http, sampler_id, 0, STALL)
    assert announced(http, sampler_id, timeout=None) == {"completions": [], "cursor": 0}


@pytest.mark.conforms(89)
def test_copies_of_a_client_hear_of_their_own_samples(http: httpx.Client):
    sampler_id = new_sampler(http)
    by_clone = {clone: sampled(http, sampler_id, clone * CLONE + 5) for clone in (0, 1, CLONE - 1)}
    for op_id in by_clone.values():
        outcome(http, op_id, accept=PROTOBUF)
    for clone, op_id in by_clone.items():
        assert ids_in(announced(http, sampler_id, clone)) == [op_id]


def test_what_the_client_has_fetched_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr("eztinker.service.service.HOUSEKEEPING_SECONDS", 0.05)
    with serving_scripted(tmp_path / "data") as server, server.client() as http:
        sampler_id, other = new_sampler(http), new_sampler(http)
        fetched, kept = sampled(http, sampler_id, 0), sampled(http, sampler_id, 1)
        for op_id in (fetched, kept):
            outcome(http, op_id, accept=PROTOBUF)
        announced(http, other, retrieved_request_ids=[kept])
        announced(http, sampler_id, retrieved_request_ids=[fetched, "op-unknown"])
        wait_until(lambda: outcome(http, fetched).status_code == 410)
        assert outcome(http, kept, accept=PROTOBUF).status_code == 200


@pytest.mark.conforms(89, 97)
def test_cursors_outlive_the_server_and_lost_samples_are_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCRIPTED_ENGINE_DIRECTORY", str(tmp_path))
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        sampler_id = new_sampler(http)
        outcome(http, sampled(http, sampler_id, 0), accept=PROTOBUF)
        cursor = announced(http, sampler_id)["cursor"]
        lost = sampled(http, sampler_id, 1, STALL)
    with serving_scripted(tmp_path / "data", poll_hold_seconds=0.5) as server, server.client() as http:
        announcement = announced(http, sampler_id, prev_cursor=cursor)
        assert announcement["completions"] == [{"state": "failed", "request_id": lost}]
        assert outcome(http, lost).status_code == 410
        again = sampled(http, sampler_id, 2)
        outcome(http, again, accept=PROTOBUF)
        assert ids_in(announced(http, sampler_id, prev_cursor=announcement["cursor"])) == [again]


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"target": {"sampling_session_id": "nope"}}, 404, "No such sampling session"),
        ({"prev_cursor": -1}, 422, "prev_cursor must be between 0 and 9223372036854775807, got -1"),
        ({"timeout": -1}, 422, "timeout must be 0 or a positive number, got -1"),
        ({"target": {"type": "model", "sampling_session_id": "x"}}, 422, "type"),
    ],
)
def test_a_wrong_poll_gets_a_sentence(http: httpx.Client, fields: dict[str, Any], status: int, sentence: str):
    body = {"target": {"sampling_session_id": new_sampler(http)}} | fields
    response = http.post("/retrieve_futures", json=body)
    assert response.status_code == status
    assert sentence in response.json()["detail"]


@pytest.mark.conforms(91)
def test_every_copy_that_joins_gets_a_number_of_its_own(http: httpx.Client):
    sampler_id, other = new_sampler(http), new_sampler(http)
    joined = [post(http, "/join_sampling_session", sampling_session_id=sampler_id) for _ in range(3)]
    assert [answer["client_counter"] for answer in joined] == [1, 2, 3]
    assert post(http, "/join_sampling_session", sampling_session_id=other)["client_counter"] == 1
    assert http.post("/join_sampling_session", json={"sampling_session_id": "nope"}).status_code == 404


@pytest.mark.conforms(36)
@pytest.mark.parametrize(("is_allowed", "is_large"), [(True, True), (True, False), (False, True)])
def test_the_size_alone_is_told_only_to_who_allows_it_and_of_a_large_result(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, is_allowed: bool, is_large: bool
):
    op_id = sampled(http, new_sampler(http), 0)
    size = len(outcome(http, op_id, accept=PROTOBUF).content)
    monkeypatch.setattr("eztinker.api.routes.futures.MAX_UNANNOUNCED_BYTES", size - is_large)
    body = {"request_id": op_id, "allow_metadata_only": is_allowed}
    response = http.post("/retrieve_future", json=body, headers={"accept": PROTOBUF})
    if is_allowed and is_large:
        assert response.json() == {"status": "complete_metadata", "response_payload_size": size}
    else:
        assert len(response.content) == size


# --- giving up ---


@pytest.mark.conforms(90)
def test_a_cancelled_sample_ends_at_once_and_cancelling_again_changes_nothing(http: httpx.Client):
    sampler_id = new_sampler(http)
    op_id = sampled(http, sampler_id, 0, STALL)
    for _ in range(2):
        assert post(http, "/cancel_future", request_id=op_id) == {}
    failure = outcome(http, op_id).json()
    assert (failure["category"], failure["code"]) == ("user", "cancelled")
    assert announced(http, sampler_id)["completions"] == [{"state": "failed", "request_id": op_id}]
    assert post(http, "/cancel_future", request_id=op_id) == {}
    assert outcome(http, op_id).json() == failure


@pytest.mark.conforms(90)
def test_what_is_over_or_unknown_or_no_sample_cannot_be_cancelled(http: httpx.Client):
    done = sampled(http, new_sampler(http), 0)
    result = outcome(http, done, accept=PROTOBUF).content
    model_id = new_run(http)
    waiting = send_chunk(http, chunk(model_id, 2))
    for op_id in (done, waiting, "op-unknown"):
        assert post(http, "/cancel_future", request_id=op_id) == {}
    assert outcome(http, done, accept=PROTOBUF).content == result
    send_chunk(http, chunk(model_id, 1))
    assert loss_of(outcome(http, waiting, accept=PROTOBUF)) == 2.0


def test_a_sample_can_be_cancelled_while_no_engine_runs_and_the_poll_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("eztinker.service.execution.engine_link.STOP_SECONDS", 0.1)
    never = (sys.executable, "-c", "import time; time.sleep(60)")
    with (
        serving(tmp_path, Catalog([SCRIPTED_BASE_MODEL]), engine_argv=never, poll_hold_seconds=0.1) as server,
        server.client() as http,
    ):
        op_id = sampled(http, new_sampler(http), 0)
        poll = http.post("/retrieve_future", json={"request_id": op_id})
        assert (poll.status_code, poll.json()["queue_state"]) == (408, "paused_capacity")
        assert poll.json()["queue_state_reason"] == "the engine is starting"
        post(http, "/cancel_future", request_id=op_id)
        assert outcome(http, op_id).json()["code"] == "cancelled"


# --- as the official client does it ---


@pytest.fixture
def sampler(server: RunningServer) -> Iterator[tinker.SamplingClient]:
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as client:
        yield client.create_sampling_client(base_model="tiny").result()


def draw(sampler: tinker.SamplingClient, token: int) -> Any:
    return sampler.sample(types.ModelInput.from_ints([token]), 1, types.SamplingParams(max_tokens=2))


@pytest.mark.conforms(36, 89)
@pytest.mark.parametrize("is_announced", [True, False])
def test_the_client_gets_all_its_samples(server: RunningServer, is_announced: bool, monkeypatch: pytest.MonkeyPatch):
    """By one poll for all, as we ask of it, and by one poll each, as older clients do; large results in two steps."""
    monkeypatch.setattr("eztinker.api.routes.futures.MAX_UNANNOUNCED_BYTES", 0)
    with tinker.ServiceClient(base_url=server.url, api_key=API_KEY) as client:
        assert client.holder.get_client_config().sample_use_retrieve_futures
        flags = {"sample_use_retrieve_futures": is_announced}
        client.holder._client_config = client.holder.get_client_config().model_copy(update=flags)
        sampler = client.create_sampling_client(base_model="tiny").result()
        pending = {token: draw(sampler, token) for token in range(10, 70)}
        for token, future in pending.items():
            assert list(future.result().sequences[0].tokens) == [token + 1, token + 2]
        assert (sampler._futures_poller is not None) == is_announced


@pytest.mark.conforms(90)
def test_a_future_that_is_cancelled_stops_the_work(server: RunningServer, sampler: tinker.SamplingClient):
    live = server.app.state.service.futures._live
    before = set(live)
    future = draw(sampler, STALL)
    wait_until(lambda: sampler._futures_poller is not None and bool(sampler._futures_poller._events))
    assert len(set(live) - before) == 1
    future.future().cancel()
    wait_until(lambda: not set(live) - before)
