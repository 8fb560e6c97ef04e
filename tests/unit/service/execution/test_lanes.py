"""Order, gaps and lateness of one run's operations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import SequenceGap
from eztinker.service.execution.lanes import Lane

WAIT = 60.0


def new_lane() -> Lane[int]:
    return Lane(gap_wait_seconds=WAIT)


def test_operations_start_at_once_when_they_come_in_order():
    lane = new_lane()
    released = [lane.arrive(n, n, is_chunked=True, now=0.0) for n in (1, 2, 3)]
    assert released == [[1], [2], [3]]
    assert lane.deadline is None


@pytest.mark.conforms(40)
def test_chunks_wait_for_the_first_chunk_which_is_sent_last():
    lane = new_lane()
    assert lane.arrive(2, 2, is_chunked=True, now=0.0) == []
    assert lane.arrive(3, 3, is_chunked=True, now=0.0) == []
    assert lane.arrive(1, 1, is_chunked=True, now=0.0) == [1, 2, 3]


def test_an_operation_that_is_never_chunked_proves_that_missing_numbers_will_not_come():
    lane = new_lane()
    assert lane.arrive(3, 3, is_chunked=True, now=0.0) == []
    assert lane.arrive(5, 5, is_chunked=False, now=0.0) == [3, 5]
    assert lane.deadline is None


@pytest.mark.conforms(41)
def test_a_gap_before_a_chunk_is_skipped_when_its_time_is_over():
    lane = new_lane()
    lane.arrive(2, 2, is_chunked=True, now=10.0)
    assert lane.deadline == 10.0 + WAIT
    assert lane.release_due(9.9 + WAIT) == []
    assert lane.release_due(10.0 + WAIT) == [2]
    assert lane.deadline is None


def test_all_gaps_are_skipped_together():
    lane = new_lane()
    for n in (2, 4, 6):
        lane.arrive(n, n, is_chunked=True, now=0.0)
    assert lane.release_due(WAIT) == [2, 4, 6]
    assert lane.deadline is None


def test_each_arrival_gives_a_missing_chunk_its_full_time_again():
    lane = new_lane()
    lane.arrive(2, 2, is_chunked=True, now=0.0)
    lane.arrive(3, 3, is_chunked=True, now=WAIT - 1)
    assert lane.release_due(WAIT) == []
    assert lane.release_due(2 * WAIT - 1) == [2, 3]


def test_an_operation_whose_place_was_given_up_is_refused():
    lane = new_lane()
    lane.arrive(2, 2, is_chunked=False, now=0.0)
    with pytest.raises(SequenceGap, match="Operation 1 came after"):
        lane.arrive(1, 1, is_chunked=True, now=0.0)


def test_a_lane_that_ends_hands_out_everything_that_waits():
    lane = new_lane()
    lane.arrive(4, 4, is_chunked=True, now=0.0)
    lane.arrive(2, 2, is_chunked=True, now=0.0)
    assert lane.release_all() == [2, 4]
    assert new_lane().release_all() == []


@pytest.mark.conforms(39)
@given(st.permutations(range(1, 12)))
def test_any_order_of_arrival_starts_everything_in_order(order: list[int]):
    lane = new_lane()
    started = [item for n in order for item in lane.arrive(n, n, is_chunked=True, now=0.0)]
    assert started == list(range(1, 12))


arrivals = st.lists(
    st.tuples(st.integers(1, 40), st.booleans(), st.floats(0, 50)), max_size=30, unique_by=lambda arrival: arrival[0]
)


@pytest.mark.conforms(41)
@given(arrivals)
def test_whatever_is_missing_every_operation_starts_in_order_or_is_refused_in_bounded_time(
    arrived: list[tuple[int, bool, float]],
):
    lane, now = new_lane(), 0.0
    started: list[int] = []
    refused: list[int] = []
    for seq_id, is_chunked, pause in arrived:
        now += pause
        started += lane.release_due(now)
        try:
            started += lane.arrive(seq_id, seq_id, is_chunked=is_chunked, now=now)
        except SequenceGap:
            refused.append(seq_id)
    started += lane.release_due(now + WAIT)
    assert lane.deadline is None
    assert started == sorted(started)
    assert sorted(started + refused) == sorted(seq_id for seq_id, _, _ in arrived)
