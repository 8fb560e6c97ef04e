"""Places in the batch: one share alone may have all, and whoever comes beside it finds some at once.

Running samples are never put out of the batch. So beyond its size there are spare places, and spare memory, for shares
that hold less than an equal part; what the others hold too much goes over to them as it becomes free.

Whoever is next keeps the others out until its sample fits, so a large one gets in after at most one more sample of
each. One that may come to more than five eighths of the memory fits beside no other, and runs alone until it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

SPARE = 0.25
"""Part of the places, and of the memory, that is there beyond them."""


class Places:
    """Who may have one more place. Each costs as much memory as the longest sample may need. Pure logic."""

    def __init__(self, num_places: int, num_tokens: int) -> None:
        """`num_tokens` is what all places together may hold."""
        self._num_places = num_places
        self._num_tokens = num_tokens
        self._lengths: Counter[int] = Counter()
        self.held: Counter[str] = Counter()
        """Places by share; no zeros."""

    def add(self, share: str, length: int) -> None:
        """Give a place to a sample that may come to `length` tokens."""
        self.held[share] += 1
        self._lengths[length] += 1

    def remove(self, share: str, length: int) -> None:
        """Take it back."""
        self.held -= Counter([share])
        self._lengths -= Counter([length])

    def clear(self) -> None:
        self.held.clear()
        self._lengths.clear()

    def may_join(self, share: str, waiting: Mapping[str, int]) -> bool:
        """Whether there is a place for the share's next sample, and nobody who comes before it waits for a larger one.

        Those who hold less come first, and of those who hold equally much the one that has waited longest.

        Args:
            waiting: the length of the next sample of every share that has one; longest waiting first.
        """
        num_shares = len(self.held.keys() | waiting.keys())
        order = sorted(waiting, key=self._part)
        return all(self._fits(each, waiting[each], num_shares) for each in order[: order.index(share) + 1])

    @property
    def _longest(self) -> int:
        return max(self._lengths, default=0)

    def _part(self, share: str) -> float:
        """Part of the places, or of the memory, that the share holds."""
        return self.held[share] * max(1 / self._num_places, self._longest / self._num_tokens)

    def _fits(self, share: str, length: int, num_shares: int) -> bool:
        """A sample alone always fits."""
        num_held = self.held.total() + 1
        num_places, num_tokens = self._num_places, self._num_tokens
        if num_shares > 1 and self._part(share) * num_shares < 1:
            num_places += max(1, int(SPARE * num_places))
            num_tokens += int(SPARE * num_tokens)
        return num_held == 1 or (num_held <= num_places and num_held * max(length, self._longest) <= num_tokens)
