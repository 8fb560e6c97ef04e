"""Room for bodies: an owner alone gets half of it, others always find some, and all of it comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.api.body_budget import HOLD, BodyBudget, BodyHolds, Hold
from eztinker.errors import QueueFull


def refused(budget: BodyBudget, owner: str, num_bytes: int) -> bool:
    try:
        budget.take(owner, num_bytes)
    except QueueFull:
        return True
    return False


def test_an_owner_alone_gets_half_and_the_next_half_of_what_is_left():
    budget = BodyBudget(1000)
    assert refused(budget, "ann", 501)
    budget.take("ann", 500)
    assert refused(budget, "ann", 1)
    assert refused(budget, "bob", 251)
    budget.take("bob", 250)
    budget.take("eve", 125)


def test_a_refusal_takes_nothing():
    budget = BodyBudget(1000)
    for _ in range(10):
        assert refused(budget, "ann", 600)
    budget.take("ann", 500)
    budget.give_back("ann", 500)
    budget.take("bob", 500)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 2000)), max_size=60), st.randoms())
def test_whatever_is_taken_and_given_back_it_never_holds_more_than_there_is(asks: list[tuple[str, int]], random: Any):
    budget = BodyBudget(1000)
    held: list[tuple[str, int]] = []
    for owner, num_bytes in asks:
        if not refused(budget, owner, num_bytes):
            held.append((owner, num_bytes))
        assert sum(each for _, each in held) <= 1000
        newcomer = (1000 - sum(each for _, each in held)) // 2
        if newcomer:
            assert not refused(budget, "newcomer", newcomer)
            budget.give_back("newcomer", newcomer)
        if held and random.random() < 0.5:
            budget.give_back(*held.pop(random.randrange(len(held))))
    for each in held:
        budget.give_back(*each)
    budget.take("last", 500)


class _Failure(Exception):
    pass


@pytest.mark.parametrize("ends_with", [None, _Failure, asyncio.CancelledError])
def test_a_hold_ends_with_its_request_however_that_ends(ends_with: type[BaseException] | None):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        hold: Hold = scope["state"][HOLD]
        hold.take("ann", 300)
        hold.take("ann", 200)
        if ends_with is not None:
            raise ends_with

    async def scenario() -> None:
        holds = BodyHolds(app, budget=BodyBudget(1000))
        for _ in range(3):  # the second would find no room otherwise
            try:
                await holds({"type": "http"}, None, None)  # type: ignore[arg-type]
            except (_Failure, asyncio.CancelledError):
                assert ends_with is not None

    asyncio.run(scenario())
