"""Who may have one more."""

from __future__ import annotations

import pytest

from eztinker.errors import QueueFull
from eztinker.service.accounts.fair_share import Room


def fill(room: Room, owner: str) -> int:
    """Take places until there is no more, and return how many there were."""
    taken = 0
    try:
        while True:
            room.enter(owner)
            taken += 1
    except QueueFull:
        return taken


def test_one_alone_gets_half_and_each_that_follows_half_of_the_rest():
    room = Room(16, "things")
    assert [fill(room, owner) for owner in "abcd"] == [8, 4, 2, 1]


@pytest.mark.parametrize(("num_owners", "each"), [(1, 30), (2, 20), (3, 15), (5, 10)])
def test_owners_that_fill_it_together_get_equal_shares(num_owners: int, each: int):
    room = Room(60, "things")
    taken = dict.fromkeys(range(num_owners), 0)
    for _ in range(60):
        for owner in taken:
            try:
                room.enter(str(owner))
                taken[owner] += 1
            except QueueFull:
                pass
    assert set(taken.values()) == {each}


def test_a_place_comes_back_when_its_holder_leaves():
    room = Room(2, "things")
    for _ in range(3):
        with room.held("a"), pytest.raises(QueueFull, match="This key has 1 things already"):
            room.enter("a")
