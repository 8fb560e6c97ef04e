"""When results that clients were given may go."""

from __future__ import annotations

from eztinker.service.execution.fetched_results import FetchedResults

MIB = 2**20


def test_a_result_goes_five_minutes_after_it_was_last_handed_out():
    fetched = FetchedResults()
    fetched.hand_out("once", 10, now=0)
    fetched.hand_out("twice", 10, now=1)
    fetched.hand_out("twice", 10, now=200)
    assert fetched.take_due(299) == []
    assert fetched.take_due(300) == ["once"]
    assert fetched.take_due(499) == []
    assert fetched.take_due(500) == ["twice"]
    assert fetched.take_due(10_000) == []


def test_above_64_mib_the_oldest_go_after_a_minute_and_no_sooner():
    fetched = FetchedResults()
    for number in range(100):
        fetched.hand_out(str(number), MIB, now=number)
    assert fetched.take_due(59) == []
    assert fetched.take_due(75) == [str(number) for number in range(16)]
    assert fetched.take_due(100) == [str(number) for number in range(16, 36)]
    assert fetched.take_due(159) == []
    assert fetched.take_due(340) == [str(number) for number in range(36, 41)]


def test_what_is_handed_out_again_counts_once():
    fetched = FetchedResults()
    for second in range(100):
        fetched.hand_out("same", MIB, now=second)
    assert fetched.take_due(99 + 299) == []
