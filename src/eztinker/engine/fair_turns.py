"""Start-time fair queueing: the contender that has cost the least is next, and idle contenders save nothing up.

Each contender has a virtual time, which grows by the cost of its turns; the clock of the queue is the virtual time of
the contender in service. A newcomer starts at the clock: it is next, however long the others have been served, and gets
no more than its share from then on. Source: Goyal, Vin and Cheng 1996.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

LEAST_COST = 1e-6
"""Least cost of a turn; with free turns one contender could have all of them."""

ContenderT = TypeVar("ContenderT", bound=Hashable)


class FairTurns(Generic[ContenderT]):
    """Virtual times of contenders. Pure logic: costs are in whatever unit the caller measures."""

    def __init__(self) -> None:
        self._ahead: dict[ContenderT, float] = {}
        """Virtual times later than the clock, by contender; all other contenders are at the clock."""
        self._now = 0.0

    def time_of(self, contender: ContenderT) -> float:
        """The virtual time of a contender."""
        return max(self._ahead.get(contender, self._now), self._now)

    def next(
        self, contenders: Collection[ContenderT], head_start: Callable[[ContenderT], float] = lambda _: 0.0
    ) -> ContenderT:
        """The contender with the earliest virtual time; the first of several with the same.

        Args:
            head_start: subtracted from a contender's virtual time, for work so short that it should not wait.
        """
        chosen = min(contenders, key=lambda each: self.time_of(each) - head_start(each))
        self._now = min(map(self.time_of, contenders))
        self._ahead = {each: time for each, time in self._ahead.items() if time > self._now}
        return chosen

    def charge(self, contender: ContenderT, cost: float) -> None:
        """Add the cost of a turn, or a contender's part of it, to its virtual time."""
        self._ahead[contender] = self.time_of(contender) + max(cost, LEAST_COST)
