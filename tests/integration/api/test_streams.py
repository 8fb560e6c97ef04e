"""Streamed samples over the scripted engine: what becomes of one whose client leaves."""

from __future__ import annotations

import json

import httpx
import pytest

from eztinker.service.execution.operation import Operation
from eztinker.service.sampling.sample_turns import SampleTurns
from tests.refusals import refused
from tests.scripted_engine import STALL
from tests.servers import wait_until
from tests.wire import new_sampler, sample_body


def num_samples(http: httpx.Client) -> int:
    return http.get("/status").json()["activity"]["samples"]


def test_a_client_that_leaves_gives_the_sample_up(http: httpx.Client):
    """The sample would never end by itself."""
    body = sample_body(new_sampler(http), 1, token=STALL)
    with http.stream("POST", "/stream_sample", json=body) as response:
        assert response.status_code == 200
        wait_until(lambda: num_samples(http) == 1)
    wait_until(lambda: num_samples(http) == 0)


def test_an_engine_that_reports_nothing_on_the_way_is_streamed_at_its_end(http: httpx.Client):
    with http.stream("POST", "/stream_sample", json=sample_body(new_sampler(http), 1)) as response:
        (line,) = map(json.loads, response.iter_lines())
    assert (line["tokens"], line["stop_reason"]) == ([11, 12], "length")


def test_a_sample_is_watched_before_the_engine_has_it(http: httpx.Client, monkeypatch: pytest.MonkeyPatch):
    """Else what it draws first would be lost."""
    watched: list[bool] = []
    start = SampleTurns.start

    def noting_start(turns: SampleTurns, operation: Operation) -> None:
        watched.append(turns._engine.is_watched(operation.op_id))  # pyright: ignore[reportPrivateUsage]
        start(turns, operation)

    monkeypatch.setattr(SampleTurns, "start", noting_start)
    assert http.post("/stream_sample", json=sample_body(new_sampler(http), 1)).status_code == 200
    assert watched == [True]


def test_a_stream_that_is_read_already_is_refused_to_another_reader(http: httpx.Client):
    body = sample_body(new_sampler(http), 1, token=STALL)
    with http.stream("POST", "/stream_sample", json=body):
        wait_until(lambda: num_samples(http) == 1)
        refused(http.post("/stream_sample", json=body), 400, "seq_id 1 is streamed to another request")
        assert num_samples(http) == 1
    wait_until(lambda: num_samples(http) == 0)


def test_a_repeat_of_a_stream_that_has_ended_is_told_all_at_once(http: httpx.Client):
    body = sample_body(new_sampler(http), 1)
    lines = [http.post("/stream_sample", json=body).json() for _ in range(2)]
    assert [line["tokens"] for line in lines] == [[11, 12]] * 2
