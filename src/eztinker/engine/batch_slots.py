"""Slots of the decode batch, divided fairly: one share alone may have all, and another one finds some at once.

Running samples are never preempted. So beyond the batch size there are spare slots, and spare memory, for shares that
hold less than an equal part; slots that the others hold in excess go to them as they become free.

The share that is next keeps the others out until its sample fits, so a large sample gets in after at most one more
sample of each. A sample that may need more than five eighths of the memory fits beside no other, and runs alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

SPARE = 0.25
"""Spare slots and spare memory, as a fraction of the regular ones."""


class BatchSlots:
    """Admission of samples to the batch. Each slot costs as much memory as the longest sample may need."""

    def __init__(self, num_slots: int, num_tokens: int) -> None:
        """Start with all slots free.

        Args:
            num_slots: samples in the batch, without the spare slots.
            num_tokens: tokens whose keys and values fit in memory, without the spare memory.
        """
        self._num_slots = num_slots
        self._num_tokens = num_tokens
        self._lengths: Counter[int] = Counter()
        self.held: Counter[str] = Counter()
        """Occupied slots by share; no zeros."""

    def add(self, share: str, length: int) -> None:
        """Give a slot to a sample that may reach `length` tokens, its prompt included."""
        self.held[share] += 1
        self._lengths[length] += 1

    def remove(self, share: str, length: int) -> None:
        """Free the slot of a sample that was added with this share and length."""
        self.held -= Counter([share])
        self._lengths -= Counter([length])

    def clear(self) -> None:
        self.held.clear()
        self._lengths.clear()

    def may_join(self, share: str, waiting: Mapping[str, int]) -> bool:
        """Whether the share's next sample fits, and so do those of all shares that come before it.

        Shares that hold less come first and, among equals, the one that has waited longest.

        Args:
            waiting: greatest length in tokens of the next sample of every share that has one, longest waiting first.
        """
        num_shares = len(self.held.keys() | waiting.keys())
        order = sorted(waiting, key=self._part)
        return all(self._fits(each, waiting[each], num_shares) for each in order[: order.index(share) + 1])

    @property
    def _longest(self) -> int:
        return max(self._lengths, default=0)

    def _part(self, share: str) -> float:
        """Fraction of the slots or of the memory, whichever is larger, that the share holds."""
        return self.held[share] * max(1 / self._num_slots, self._longest / self._num_tokens)

    def _fits(self, share: str, length: int, num_shares: int) -> bool:
        """Whether one more sample fits; a sample alone always does."""
        num_held = self.held.total() + 1
        num_slots, num_tokens = self._num_slots, self._num_tokens
        if num_shares > 1 and self._part(share) * num_shares < 1:
            num_slots += max(1, int(SPARE * num_slots))
            num_tokens += int(SPARE * num_tokens)
        return num_held == 1 or (num_held <= num_slots and num_held * max(length, self._longest) <= num_tokens)
