"""Streamed samples over the scripted engine: what becomes of one whose client leaves."""

from __future__ import annotations

import json

import httpx

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
