"""Sharing between owners: how much of each may wait, and whose turn it is.

Pure logic: no clock, no database.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from eztinker.errors import QueueFull

ItemT = TypeVar("ItemT")


class Room:
    """Places for things that wait.

    An owner may take a place as long as it has fewer than are free. So one alone gets half of all places, two get a
    third each, and whoever comes next always finds some.
    """

    def __init__(self, capacity: int, what: str) -> None:
        """Args: what: the things in words, for the message of a refusal."""
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


class Turns(Generic[ItemT]):
    """A queue that serves its owners in turn, each in the order of arrival."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[ItemT]] = {}
        """In the order of turns: the first owner is next."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, owner: str, item: ItemT) -> None:
        self._waiting.setdefault(owner, deque()).append(item)

    def take(self) -> ItemT:
        """The first item of the owner whose turn it is, who then comes last."""
        owner = next(iter(self._waiting))
        items = self._waiting.pop(owner)
        item = items.popleft()
        if items:
            self._waiting[owner] = items
        return item

    def remove(self, owner: str, item: ItemT) -> None:
        """Take an owner's item out before its turn."""
        items = self._waiting[owner]
        items.remove(item)
        if not items:
            del self._waiting[owner]
