"""The two times: what the calendar says, for display, and what has passed, for deadlines."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The time, passed to whatever needs it, so that a test can bring its own."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never jump; only differences mean something."""
        return time.monotonic()
