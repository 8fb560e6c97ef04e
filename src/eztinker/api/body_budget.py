"""A budget for the bytes of request bodies held at once, in total and per owner.

Bytes are taken from the budget before they are read, and given back when the request ends: answered, refused, or
abandoned by its client. The memory goes back too: the allocator, which would keep free pages, is told to return them.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from eztinker.errors import QueueFull

HOLD = "body_hold"
"""Key of a request's `Hold` in its state."""
TRIM_SECONDS = 0.5
"""Delay between the end of a large request and the return of its memory, together with that of later ones."""
TRIM_BYTES = 4 << 20
"""Size from which a request counts as large. Blocks of its own size go back by themselves, decoded objects do not."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_MMAP_THRESHOLD_BYTES = 1 << 20
_MAX_ARENAS = 2


class BodyBudget:
    """Bytes for request bodies; an owner may hold at most as many as remain free for others.

    One owner alone can therefore take half, and the next owner always finds some.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._taken: Counter[str] = Counter()

    @property
    def num_bytes(self) -> int:
        """Bytes that are taken now."""
        return self._taken.total()

    def take(self, owner: str, num_bytes: int) -> None:
        """Take `num_bytes` for `owner`.

        Raises:
            QueueFull: the owner's share has fewer left.
        """
        own, total = self._taken[owner] + num_bytes, self._taken.total() + num_bytes
        if own > self._capacity_bytes - total:
            raise QueueFull(
                f"The requests of this key that are on their way have {own:,} bytes with this one, more than its share "
                f"of {self._capacity_bytes:,} for all keys; try again when some are through"
            )
        self._taken[owner] = own

    def give_back(self, owner: str, num_bytes: int) -> None:
        self._taken[owner] -= num_bytes
        if not self._taken[owner]:
            del self._taken[owner]


class Hold:
    """The bytes that one request holds of the budget."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._owner = ""
        self.num_bytes = 0

    def take(self, owner: str, num_bytes: int) -> None:
        """Take `num_bytes` more for the request of `owner`.

        Raises:
            QueueFull: the owner's share has fewer left.
        """
        self._budget.take(owner, num_bytes)
        self._owner = owner
        self.num_bytes += num_bytes

    def release(self) -> None:
        if self.num_bytes:
            self._budget.give_back(self._owner, self.num_bytes)


class BodyHolds:
    """Middleware that gives each request a hold on the budget, and releases it however the request ends."""

    def __init__(self, app: ASGIApp, *, budget: BodyBudget) -> None:
        self._app = app
        self._budget = budget
        self._trim_timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        hold = scope.setdefault("state", {})[HOLD] = Hold(self._budget)
        try:
            await self._app(scope, receive, send)
        finally:
            hold.release()
            if hold.num_bytes >= TRIM_BYTES and self._trim_timer is None:
                self._trim_timer = asyncio.get_running_loop().call_later(TRIM_SECONDS, self._trim)

    def _trim(self) -> None:
        self._trim_timer = None
        asyncio.get_running_loop().run_in_executor(None, _return_free_memory)


def keep_memory_returnable() -> None:
    """Make glibc's allocator map large blocks singly and keep few arenas, so that freed memory can be returned.

    By itself, glibc raises the size of a large block to 32 MB as soon as one was freed, and has up to eight arenas for
    each processor, none of which gives back what lies below its last block in use.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        libc.mallopt(_M_ARENA_MAX, _MAX_ARENAS)


def _return_free_memory() -> None:
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library if it is glibc, else None; other C libraries keep little free memory."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
