"""Sharing between owners: how much of each may wait.

Pure logic: no clock, no database. Whose turn it is, the engine decides.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from eztinker.errors import QueueFull


class Room:
    """A bounded number of places for things that wait.

    An owner may take a place as long as it has fewer than are free. So one alone gets half of all places, two get a
    third each, and whoever comes next always finds some.
    """

    def __init__(self, capacity: int, what: str) -> None:
        """Make a room with `capacity` places for `what`, as the message of a refusal calls it."""
        self._capacity = capacity
        self._what = what
        self._taken: Counter[str] = Counter()

    def enter(self, owner: str) -> None:
        """Take a place.

        Raises:
            QueueFull: the owner has its share already.
        """
        require_share(self._taken[owner], self._taken.total(), self._capacity, self._what)
        self._taken[owner] += 1

    def taken(self, owner: str) -> int:
        """Places that the owner has."""
        return self._taken[owner]

    def leave(self, owner: str) -> None:
        """Give a place back."""
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]

    @contextlib.contextmanager
    def held(self, owner: str) -> Iterator[None]:
        """A place for the length of the block."""
        self.enter(owner)
        try:
            yield
        finally:
            self.leave(owner)


def require_share(own: int, total: int, capacity: int, what: str) -> None:
    """Let an owner with `own` of `total` taken places have one more.

    Raises:
        QueueFull: it has as many as are free.
    """
    if own >= capacity - total:
        raise QueueFull(f"This key has {own} {what} already, and others need room too; try again in a moment")
