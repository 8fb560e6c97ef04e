"""Something to measure in a child process; in a module of its own, so that the child imports no torch."""

from __future__ import annotations

import os


class ShortLivedMemory:
    """Holds nothing, takes 64 MB for a moment, and knows its process."""

    def take(self) -> int:
        taken = bytearray(b"x") * (64 << 20)
        return os.getpid() if taken else 0

    def rest(self) -> int:
        return os.getpid()
