"""Turns by cost: whoever has had the least is next, and nobody saves up while there was nothing to do for him.

Start-time fair queueing (Goyal, Vin and Cheng 1996). Each contender has a virtual time, which grows by what his turns
cost; the clock of the queue is the virtual time of whoever is served. A newcomer begins there: he is next, however long
the others have been served, and gets no more than his part from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

LEAST_COST = 1e-6
"""A turn is never free, or one contender could have all of them."""

ContenderT = TypeVar("ContenderT", bound=Hashable)


class FairTurns(Generic[ContenderT]):
    """Virtual times of contenders. Pure logic: costs are in whatever unit the caller measures."""

    def __init__(self) -> None:
        self._ahead: dict[ContenderT, float] = {}
        """Virtual times later than the clock; everyone else's is the clock's."""
        self._now = 0.0

    def time_of(self, contender: ContenderT) -> float:
        """The virtual time of a contender."""
        return max(self._ahead.get(contender, self._now), self._now)

    def next(
        self, contenders: Collection[ContenderT], head_start: Callable[[ContenderT], float] = lambda _: 0.0
    ) -> ContenderT:
        """Whose turn it is; the first of several with the same right to it.

        `head_start` says how much earlier someone's time counts, for work so short that waiting costs more than it.
        """
        chosen = min(contenders, key=lambda each: self.time_of(each) - head_start(each))
        self._now = min(map(self.time_of, contenders))
        self._ahead = {each: time for each, time in self._ahead.items() if time > self._now}
        return chosen

    def charge(self, contender: ContenderT, cost: float) -> None:
        """Note what a turn cost, or a contender's part of one that served several."""
        self._ahead[contender] = self.time_of(contender) + max(cost, LEAST_COST)
