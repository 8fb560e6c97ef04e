"""Something to measure in a child process; in a module of its own, so that the child imports no torch."""

from __future__ import annotations

import os
import time


class ShortLivedMemory:
    """Holds nothing, takes 64 MB for a moment, and knows its process."""

    def __init__(self) -> None:
        self._num_calls = 0

    def take(self) -> int:
        taken = bytearray(b"x") * (64 << 20)
        return os.getpid() if taken else 0

    def rest(self) -> int:
        return os.getpid()

    def count(self) -> int:
        """How often this was called; the first and the last call take longest."""
        self._num_calls += 1
        time.sleep(0.02 if self._num_calls in (1, 4) else 0.0)
        return self._num_calls
