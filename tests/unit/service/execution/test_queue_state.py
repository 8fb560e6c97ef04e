"""What a key is told while its requests have no result."""

from __future__ import annotations

import pytest

from eztinker.service.execution.queue_state import Queue, queue_state
from eztinker.types import EngineStatus


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({}, Queue.ACTIVE),
        ({"me": 1.0}, Queue.ACTIVE),
        ({"you": 1.0}, Queue.ACTIVE),
        ({"me": 0.2, "you": 0.8}, Queue.ACTIVE),
        ({"me": 0.5, "you": 0.5}, Queue.OVER_SHARE),
        ({"me": 0.49, "you": 0.51}, Queue.OVER_SHARE),
        ({"me": 0.7, "you": 0.3}, Queue.OVER_SHARE),
        ({"me": 0.2, **{str(number): 0.1 for number in range(8)}}, Queue.OVER_SHARE),
        ({"me": 0.04, **{str(number): 0.12 for number in range(8)}}, Queue.ACTIVE),
    ],
)
def test_a_key_waits_for_its_share_when_it_has_had_an_equal_part_beside_others(
    shares: dict[str, float], expected: Queue
):
    state = queue_state("me", 7, EngineStatus(shares=shares))
    assert state.queue is expected
    assert (state.reason is None) == (expected is Queue.ACTIVE)


def test_the_reason_names_part_keys_and_requests():
    state = queue_state("me", 812, EngineStatus(shares={"me": 0.62, "you": 0.38}))
    assert state.reason == (
        "this key has had 62% of the engine's time lately, and 2 keys share it equally; "
        "812 of its requests are waiting or running"
    )


def test_without_an_engine_everybody_waits_for_one():
    state = queue_state("me", 7, None)
    assert (state.queue, state.reason) == ("paused_capacity", "the engine is starting")
