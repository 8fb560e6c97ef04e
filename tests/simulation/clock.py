"""The clocks of a simulated server: time is the event loop's number, and somebody may set the wall clock wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from eztinker.service.clock import Clock
from tests.simulation.event_loop import VirtualLoop

_START = datetime(2030, 3, 31, 0, 30, tzinfo=UTC)


class SimulatedClock(Clock):
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._latest = _START
        self.jumped = timedelta(0)

    def jump(self, by: timedelta) -> None:
        self._latest = self.latest
        self.jumped += by

    @property
    def latest(self) -> datetime:
        """The latest time that the clock has ever shown."""
        return max(self._latest, self.now())

    def now(self) -> datetime:
        return _START + timedelta(seconds=self._loop.time()) + self.jumped

    def monotonic(self) -> float:
        return self._loop.time()
