"""Addresses that send wrong keys for ever are turned away unread, for the rest of the minute.

A key or token that was right before is looked at all the same. Behind a proxy or a router many clients have one
address, and whoever guesses there must not lock out those who work. A right key that has not been seen yet waits until
the minute is over: it is told from a guess only by looking, which is what a guess is after.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from ipaddress import IPv6Address, IPv6Network

from eztinker.api.errors import Refused

WINDOW_SECONDS = 60.0
MAX_ADDRESSES = 4096
MAX_REMEMBERED = 4096
"""Keys and tokens that were right. Each client process has a token of its own."""


class WrongKeys:
    """Counts wrong keys per address, in one window for all."""

    def __init__(self, limit: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            limit: wrong keys that an address may send in a window.
        """
        self._limit = limit
        self._monotonic = monotonic
        self._counts: dict[str, int] = {}
        self._window_ends = 0.0
        self._right: OrderedDict[int, None] = OrderedDict()
        """Hashes of Python's, salted anew in each process: one that collides is only looked at like any other."""

    def check(self, address: str, credential: str) -> None:
        """Let `credential` through to be looked at.

        Raises:
            Refused: its address has sent too many wrong ones, and it was not right before.
        """
        if self._counts.get(_host(address), 0) < self._limit or hash(credential) in self._right:
            return
        seconds = math.ceil(self._window_ends - self._monotonic())
        if seconds > 0:
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too_many_wrong_keys",
                f"This address has sent {self._limit} wrong keys in a minute; try again in {seconds} s",
                headers={"Retry-After": str(seconds)},
            )

    def count(self, address: str) -> None:
        """One more wrong key came from `address`."""
        now = self._monotonic()
        if now >= self._window_ends:
            self._counts.clear()
            self._window_ends = now + WINDOW_SECONDS
        host = _host(address)
        if host not in self._counts and len(self._counts) == MAX_ADDRESSES:
            del self._counts[next(iter(self._counts))]
        self._counts[host] = self._counts.get(host, 0) + 1

    def remember(self, credential: str) -> None:
        """`credential` was right."""
        self._right[hash(credential)] = None
        self._right.move_to_end(hash(credential))
        if len(self._right) > MAX_REMEMBERED:
            self._right.popitem(last=False)


def _host(address: str) -> str:
    """What counts as one address: of IPv6 a network of 2^64, for that is what a single machine gets."""
    if ":" not in address:
        return address
    ip = IPv6Address(address)
    return str(ip.ipv4_mapped or IPv6Network((int(ip) >> 64 << 64, 64)))
