"""Turns by cost: nobody waits for more than the turns in hand, nobody gets more than an equal part for long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.engine.fair_turns import FairTurns

LONGEST_TURN = 8.0
turns_of_owners = st.lists(
    st.tuples(st.sets(st.sampled_from("abcd"), min_size=1), st.floats(0.1, LONGEST_TURN)), min_size=1, max_size=80
)


@given(turns_of_owners)
def test_owners_that_always_have_work_differ_by_one_turn_at_most(turns: list[tuple[set[str], float]]):
    fair: FairTurns[str] = FairTurns()
    had = dict.fromkeys("abcd", 0.0)
    for _, cost in turns:
        chosen = fair.next("abcd")
        fair.charge(chosen, cost)
        had[chosen] += cost
        assert max(had.values()) - min(had.values()) <= LONGEST_TURN + 1e-9


@given(turns_of_owners)
def test_from_any_moment_on_an_owner_with_work_gets_as_much_as_any_other_but_for_two_turns(
    turns: list[tuple[set[str], float]],
):
    """Whoever was away earlier, and however long: what was saved up or overdrawn then is bounded."""
    fair: FairTurns[str] = FairTurns()
    history: list[tuple[set[str], str, float]] = []
    for contenders, cost in turns:
        chosen = fair.next(sorted(contenders))
        assert chosen in contenders  # work-conserving: a turn is never left out
        fair.charge(chosen, cost)
        history.append((contenders, chosen, cost))
    for start in range(len(history)):
        had = dict.fromkeys("abcd", 0.0)
        patient = set("abcd")
        for contenders, chosen, cost in history[start:]:
            patient &= contenders
            had[chosen] += cost
            for owner in patient:
                assert max(had.values()) - had[owner] <= 2 * LONGEST_TURN + 1e-9


def test_a_newcomer_is_next_and_has_no_claim_to_the_time_before():
    fair: FairTurns[str] = FairTurns()
    for _ in range(100):
        fair.next("a")
        fair.charge("a", 1.0)
    order = []
    for _ in range(6):
        order.append(fair.next("ab"))
        fair.charge(order[-1], 1.0)
    assert order == list("bababa") or order == list("bababa")


def test_turns_that_cost_nothing_still_go_round():
    fair: FairTurns[str] = FairTurns()
    order = []
    for _ in range(6):
        order.append(fair.next("abc"))
        fair.charge(order[-1], 0.0)
    assert order == list("abcabc")


@pytest.mark.parametrize("num_light", [1, 7])
def test_whoever_asks_for_little_gets_it_before_the_next_turn_of_whoever_asks_for_much(num_light: int):
    fair: FairTurns[str] = FairTurns()
    light = [f"light-{number}" for number in range(num_light)]
    for _ in range(50):
        served = []
        while set(light) - set(served):
            served.append(fair.next([*(set(light) - set(served)), "heavy"]))
            fair.charge(served[-1], 1.0 if served[-1] != "heavy" else 20.0)
        assert served.count("heavy") <= 1


def test_a_head_start_brings_someone_forward_who_is_not_further_ahead_than_that():
    fair: FairTurns[str] = FairTurns()
    for contender, cost in (("a", 3.0), ("b", 4.0), ("c", 9.0)):
        fair.charge(contender, cost)
    starts = {"b": 2.0, "c": 2.0}
    assert fair.next("abc", lambda each: starts.get(each, 0.0)) == "b"
    fair.charge("b", 4.0)
    assert fair.next("abc", lambda each: starts.get(each, 0.0)) == "a"
    assert fair.time_of("newcomer") == 3.0
