"""How many bytes of request bodies this process takes in at once, in all and for one owner.

Bytes are taken from the budget before they are read, and are back when the request is over: answered, refused, or left
by its client. So is the memory: the allocator is told to give free pages back, which it keeps by itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from eztinker.errors import QueueFull

HOLD = "body_hold"
"""Where a request's state has its `Hold`."""
TRIM_SECONDS = 0.5
"""Between the end of a large request and the return of its memory; what ends in that time is returned together."""
TRIM_BYTES = 4 << 20
"""From which on a request is large: blocks of its own size go back by themselves, what was made of it does not."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_MMAP_THRESHOLD_BYTES = 1 << 20
_MAX_ARENAS = 2


class BodyBudget:
    """Bytes for bodies. An owner may take as long as no more is its own than is free for others.

    So one owner alone gets half, and whoever comes next always finds some.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._taken: Counter[str] = Counter()

    @property
    def num_bytes(self) -> int:
        """Bytes taken now."""
        return self._taken.total()

    def take(self, owner: str, num_bytes: int) -> None:
        """
        Raises:
            QueueFull: the owner's share does not have so many left.
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
    """What one request has of the budget."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._owner = ""
        self.num_bytes = 0

    def take(self, owner: str, num_bytes: int) -> None:
        """Take more bytes, for the request of `owner`.

        Raises:
            QueueFull: they are not to be had.
        """
        self._budget.take(owner, num_bytes)
        self._owner = owner
        self.num_bytes += num_bytes

    def release(self) -> None:
        if self.num_bytes:
            self._budget.give_back(self._owner, self.num_bytes)


class BodyHolds:
    """Gives each request a hold on the budget, and ends it with the request, however that ends."""

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
    """Have the allocator take large blocks from the system one by one, and small ones from few places.

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
    """The C library, where it is one that can be told; others keep little by themselves."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
