"""The order of one training run's operations: strictly by `seq_id`, whatever the order of arrival.

A client sends the chunks of one forward_backward call concurrently and the first chunk last, so a higher number often
comes before a lower one and must be acknowledged at once. Numbers also go missing for good: a request that failed on
the client has used one up. A lane therefore waits for a missing number, but not for ever:

- An operation that is never chunked is sent only after every lower number has been answered or given up, so its arrival
  proves that a missing number will not come.
- A forward_backward waits a bounded time, which starts again with each arrival, and then every gap is skipped.

Pure logic: no clock, no database. Times are monotonic seconds.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from eztinker.errors import SequenceGap

ItemT = TypeVar("ItemT")

GAP_WAIT_SECONDS = 60.0
"""Time for a first chunk of some megabytes to arrive over a slow line."""


class Lane(Generic[ItemT]):
    """Items in the order in which they may start. Each number arrives once; repeats are sorted out before."""

    def __init__(self, *, first: int = 1, gap_wait_seconds: float = GAP_WAIT_SECONDS) -> None:
        self._next_seq_id = first
        self._waiting: dict[int, ItemT] = {}
        self._gap_wait_seconds = gap_wait_seconds
        self._deadline: float | None = None

    @property
    def deadline(self) -> float | None:
        """Monotonic time at which `release_due` has something to do; None while nothing waits."""
        return self._deadline

    def arrive(self, seq_id: int, item: ItemT, *, is_chunked: bool, now: float) -> list[ItemT]:
        """Take `item` in and return what may start now, in order.

        Raises:
            SequenceGap: its place was given up before it came.
        """
        if seq_id < self._next_seq_id:
            raise SequenceGap(
                f"Operation {seq_id} came after its place in the order had been given up; "
                f"the run has gone on to {self._next_seq_id}"
            )
        self._waiting[seq_id] = item
        released = self._release_in_order() if is_chunked else self._release_up_to(seq_id)
        self._deadline = now + self._gap_wait_seconds if self._waiting else None
        return released

    def release_due(self, now: float) -> list[ItemT]:
        """Skip the gaps if their time is over, and return what may start now."""
        if self._deadline is None or now < self._deadline:
            return []
        return self.release_all()

    def release_all(self) -> list[ItemT]:
        """Everything that waits; what is missing will not be waited for any more."""
        self._deadline = None
        return self._release_up_to(max(self._waiting)) if self._waiting else []

    def _release_up_to(self, seq_id: int) -> list[ItemT]:
        """Everything that waits up to `seq_id`, skipping what is missing, and what follows without a gap."""
        released = [self._waiting.pop(number) for number in sorted(self._waiting) if number <= seq_id]
        self._next_seq_id = seq_id + 1
        return released + self._release_in_order()

    def _release_in_order(self) -> list[ItemT]:
        released = []
        while self._next_seq_id in self._waiting:
            released.append(self._waiting.pop(self._next_seq_id))
            self._next_seq_id += 1
        return released
