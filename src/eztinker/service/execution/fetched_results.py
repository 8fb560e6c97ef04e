"""Results that clients have been given, and when these may go from the log.

An answer can be lost on its way, and the client then asks again within a minute or two; so a result stays for some
minutes after it was last handed out. Nothing of this is in the log: a server that was started again takes no result for
fetched, as the client of a killed one may have to ask once more.

Pure logic: no clock, no database. Times are monotonic seconds.
"""

from __future__ import annotations

from typing import NamedTuple

KEPT_SECONDS = 300.0
"""Time that a result is kept after it was last handed out."""
SURELY_KEPT_SECONDS = 60.0
"""Time that every result is kept, however many there are: a client asks again after 45 seconds at the latest."""
MAX_KEPT_BYTES = 64 * 2**20
"""Most bytes of results that are kept longer; the oldest go first."""


class _Handed(NamedTuple):
    at: float
    num_bytes: int


class FetchedResults:
    """Remembers which results were handed out, and when."""

    def __init__(self) -> None:
        self._handed: dict[str, _Handed] = {}
        """Results by operation, the one that was handed out longest ago first."""
        self._num_bytes = 0

    def hand_out(self, op_id: str, num_bytes: int, now: float) -> None:
        self._forget(op_id)
        self._handed[op_id] = _Handed(now, num_bytes)
        self._num_bytes += num_bytes

    def take_due(self, now: float) -> list[str]:
        """Ids of operations whose results may be dropped now; they are not named again."""
        due = []
        for op_id, handed in list(self._handed.items()):
            kept_seconds = SURELY_KEPT_SECONDS if self._num_bytes > MAX_KEPT_BYTES else KEPT_SECONDS
            if now - handed.at < kept_seconds:
                break
            self._forget(op_id)
            due.append(op_id)
        return due

    def _forget(self, op_id: str) -> None:
        if (handed := self._handed.pop(op_id, None)) is not None:
            self._num_bytes -= handed.num_bytes
