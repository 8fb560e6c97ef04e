"""BatchSlots in the batch: one share alone has all, a newcomer finds some at once, and both bounds hold."""

from __future__ import annotations

import random

import pytest

from eztinker.engine.batch_slots import BatchSlots


def fill(slots: BatchSlots, share: str, length: int, waiting: dict[str, int]) -> int:
    """Join until there is no slot, and return how many there were."""
    joined = 0
    while slots.may_join(share, waiting | {share: length}):
        slots.add(share, length)
        joined += 1
    return joined


def test_one_share_alone_has_every_place_and_no_more():
    assert fill(BatchSlots(16, 10_000), "a", 10, {}) == 16
    assert fill(BatchSlots(16, 100), "a", 30, {}) == 3


def test_a_newcomer_finds_spare_places_and_spare_memory():
    slots = BatchSlots(16, 160)
    assert fill(slots, "a", 10, {}) == 16
    assert fill(slots, "b", 10, {"a": 10}) == 4
    assert fill(slots, "a", 10, {"b": 10}) == 0


def test_what_one_has_too_much_goes_over_to_the_other_as_it_is_freed():
    slots = BatchSlots(16, 10_000)
    fill(slots, "a", 10, {})
    for _ in range(40):
        slots.remove("a", 10)
        for share in "ab":
            fill(slots, share, 10, {"a": 10, "b": 10})
        if slots.held["a"] == slots.held["b"] == 8:
            return
    raise AssertionError(f"after forty that ended the slots are {slots.held}")


def test_a_long_sample_that_does_not_fit_yet_keeps_short_ones_of_others_from_taking_its_place():
    slots = BatchSlots(16, 160)
    fill(slots, "a", 10, {})
    waiting = {"a": 10, "b": 100}
    for _ in range(14):
        slots.remove("a", 10)
        assert not slots.may_join("a", waiting)
        assert not slots.may_join("b", waiting)
    slots.remove("a", 10)
    assert slots.may_join("b", waiting)


def test_of_shares_that_hold_equally_much_the_one_that_has_waited_longest_comes_first():
    slots = BatchSlots(16, 160)
    slots.add("c", 10)
    assert not slots.may_join("a", {"b": 150, "a": 10})
    assert slots.may_join("a", {"a": 10, "b": 150})


def test_a_sample_of_up_to_five_eighths_of_the_memory_leaves_a_newcomer_room():
    for length, has_room in ((100, True), (101, False)):
        slots = BatchSlots(16, 160)
        slots.add("a", length)
        assert slots.may_join("b", {"b": 10}) is has_room


def test_a_sample_alone_always_has_a_place():
    assert BatchSlots(1, 10).may_join("a", {"a": 10_000})


@pytest.mark.parametrize("seed", range(50))
def test_places_and_memory_are_never_exceeded_by_more_than_a_quarter(seed: int):
    generator = random.Random(seed)
    num_slots, num_tokens = generator.randint(1, 20), generator.randint(20, 2000)
    slots, held = BatchSlots(num_slots, num_tokens), []
    for _ in range(200):
        waiting = {share: generator.randint(1, 60) for share in generator.sample("abc", generator.randint(1, 3))}
        if held and generator.random() < 0.5:
            slots.remove(*held.pop(generator.randrange(len(held))))
        for share, length in waiting.items():
            if slots.may_join(share, waiting):
                slots.add(share, length)
                held.append((share, length))
        assert slots.held.total() == len(held) <= num_slots + max(1, num_slots // 4)
        longest = max((length for _, length in held), default=0)
        assert len(held) <= 1 or len(held) * longest <= 1.25 * num_tokens
        assert held, "a slot was free, and nobody got it"
