"""Full queues: 429 for whoever has its share, room for everyone else, and turns between owners."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import tinker
from tinker import types

from eztinker.service.accounts.fair_share import Room
from eztinker.service.execution.engine_process import MAX_DEATHS
from tests.route_cases import tenant
from tests.scripted_engine import STALL
from tests.servers import RunningServer, ServeScripted, key_of, wait_until
from tests.wire import chunk, new_run, new_sampler, new_session, outcome, post, sample_body, send_chunk


@pytest.fixture
def server(serve_scripted: ServeScripted) -> RunningServer:
    """Room for 8 waiting operations, 4 loaded runs and 4 sequences of each owner in the engine."""
    room = {"eztinker.service.execution.futures.MAX_UNSETTLED": 8}
    return serve_scripted(constants=room, poll_hold_seconds=0.5, max_runs=4, max_batch_size=2)


@pytest.fixture
def ann(server: RunningServer) -> Iterator[httpx.Client]:
    with tenant(server, "ann") as http:
        yield http


@pytest.fixture
def bob(server: RunningServer) -> Iterator[httpx.Client]:
    with tenant(server, "bob") as http:
        yield http


def is_full(response: httpx.Response) -> bool:
    if response.status_code != 429:
        return False
    assert response.json()["error"]["code"] == "queue_full"
    assert int(response.headers["retry-after"]) > 0
    assert "x-should-retry" not in response.headers
    assert response.json()["queue_state"] == "paused_rate_limit"
    assert response.json()["queue_state_reason"] == response.json()["detail"]
    return True


def replace_engine(server: RunningServer) -> None:
    engine = server.app.state.service.engine
    while (dying := engine.ready) is None:
        time.sleep(0.01)
    os.kill(dying.pid, signal.SIGKILL)
    while engine.ready in (None, dying):
        time.sleep(0.01)


@pytest.mark.conforms(87)
def test_one_owner_cannot_fill_the_queue_and_what_was_refused_succeeds_later(
    server: RunningServer, ann: httpx.Client, bob: httpx.Client
):
    sampler, other = new_sampler(ann), new_sampler(bob)
    answers = [ann.post("/asample", json=sample_body(sampler, seq_id, token=STALL)) for seq_id in range(5)]
    assert [is_full(answer) for answer in answers] == [False] * 4 + [True]
    assert "This key has 4 requests waiting already" in answers[-1].json()["detail"]
    assert not is_full(bob.post("/asample", json=sample_body(other)))
    for _ in range(MAX_DEATHS):  # then a sample is given up
        replace_engine(server)
    refused_before = [post(ann, "/asample", **sample_body(sampler, seq_id=4))["request_id"] for _ in range(2)]
    assert refused_before[0] == refused_before[1]
    assert outcome(ann, refused_before[0]).json()["sequences"]


def test_a_full_queue_does_not_keep_a_session_from_ending(ann: httpx.Client):
    session_id = new_session(ann)
    model_id = new_run(ann, session_id=session_id)
    futures = [send_chunk(ann, chunk(model_id, seq_id)) for seq_id in (2, 3, 4, 5)]
    assert is_full(ann.post("/optim_step", json={"model_id": model_id, "seq_id": 6, "adam_params": {}}))
    post(ann, f"/sessions/{session_id}/finish", reason={"type": "success"})
    assert {outcome(ann, future).json()["code"] for future in futures} == {"sequence_gap"}


def test_a_sample_that_is_given_up_before_the_engine_has_room_ends_at_once(ann: httpx.Client, bob: httpx.Client):
    sampler, other = new_sampler(ann), new_sampler(bob)
    stalled = post(ann, "/asample", **sample_body(sampler, token=STALL, num_samples=4))["request_id"]
    waiting = [post(ann, "/asample", **sample_body(sampler, seq_id))["request_id"] for seq_id in (1, 2)]
    assert outcome(bob, post(bob, "/asample", **sample_body(other))["request_id"]).json()["sequences"]
    post(bob, "/cancel_future", request_id=waiting[1])  # not bob's, so it stays
    post(ann, "/cancel_future", request_id=waiting[0])
    assert outcome(ann, waiting[0]).json()["code"] == "cancelled"
    post(ann, "/cancel_future", request_id=stalled)
    assert outcome(ann, stalled).json()["code"] == "cancelled"
    assert outcome(ann, waiting[1]).json()["sequences"]


def test_the_official_client_waits_while_its_queue_is_full(server: RunningServer):
    with tinker.ServiceClient(base_url=server.url, api_key=key_of(server, "ann")) as client:
        sampler = client.create_sampling_client(base_model="tiny").result()

        def draw(token: int) -> Any:
            return sampler.sample(types.ModelInput.from_ints([token]), 1, types.SamplingParams(max_tokens=2))

        stalled = [draw(STALL) for _ in range(4)]
        wait_until(lambda: len(server.app.state.service.futures._live) == 4)
        waiting = draw(10)
        wait_until(lambda: sampler.holder._sample_backoff_until is not None)
        assert not waiting.future().done()
        for future in stalled:
            future.future().cancel()
        assert list(waiting.result(timeout=20).sequences[0].tokens) == [11, 12]


def test_an_owner_has_half_of_the_runs_until_it_gives_one_back(ann: httpx.Client, bob: httpx.Client):
    session_id = new_session(ann)
    bodies = [{"session_id": session_id, "model_seq_id": number, "base_model": "tiny"} for number in range(3)]
    first = post(ann, "/create_model", **bodies[0])
    post(ann, "/create_model", **bodies[1])
    assert is_full(ann.post("/create_model", json=bodies[2]))
    assert new_run(bob)
    model_id = outcome(ann, first["request_id"]).json()["model_id"]
    outcome(ann, post(ann, "/unload_model", model_id=model_id)["request_id"])
    assert ann.post("/create_model", json=bodies[2]).status_code == 200


def test_an_owner_cannot_hold_all_polls(server: RunningServer, ann: httpx.Client, bob: httpx.Client):
    server.app.state.service.polls = Room(8, "polls open")
    stalled = post(ann, "/asample", **sample_body(new_sampler(ann), token=STALL))["request_id"]
    with ThreadPoolExecutor(6) as pool:
        polls = [pool.submit(ann.post, "/retrieve_future", json={"request_id": stalled}) for _ in range(6)]
        answers = [poll.result() for poll in polls]
    assert sorted(answer.status_code for answer in answers) == [408] * 4 + [429] * 2
    assert sum(map(is_full, answers)) == 2
    assert not is_full(bob.post("/retrieve_future", json={"request_id": stalled}))
