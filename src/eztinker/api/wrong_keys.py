"""A limit on wrong keys per address: beyond it, keys are refused without a look for the rest of the minute.

A key or token that was right before is still looked up. Behind a proxy or a router many clients have one address, and
one that guesses must not lock out the others. A right key that has not been seen yet waits until the minute has passed:
only a look-up could tell it from a guess.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from ipaddress import IPv6Address, IPv6Network

from eztinker.api.error_responses import RequestRefused

WINDOW_SECONDS = 60.0
MAX_ADDRESSES = 4096
MAX_REMEMBERED = 4096
"""Most right keys and tokens to remember. Each client process has a token of its own."""


class WrongKeys:
    """Counts wrong keys per address, in one window for all addresses."""

    def __init__(self, limit: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start with no wrong keys.

        Args:
            limit: wrong keys that an address may send in a window.
            monotonic: clock in seconds.
        """
        self._limit = limit
        self._monotonic = monotonic
        self._counts: dict[str, int] = {}
        self._window_ends = 0.0
        self._right: OrderedDict[int, None] = OrderedDict()
        """Hashes of right credentials, oldest first; a credential that collides is still looked up like any other."""

    def check(self, address: str, credential: str) -> None:
        """Allow `credential` to be looked up.

        Raises:
            RequestRefused: its address has sent too many wrong keys, and the credential was not right before.
        """
        if self._counts.get(_host(address), 0) < self._limit or hash(credential) in self._right:
            return
        seconds = math.ceil(self._window_ends - self._monotonic())
        if seconds > 0:
            raise RequestRefused(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too_many_wrong_keys",
                f"This address has sent {self._limit} wrong keys in a minute; try again in {seconds} s",
                headers={"Retry-After": str(seconds)},
            )

    def count(self, address: str) -> None:
        """Count one more wrong key from `address`."""
        now = self._monotonic()
        if now >= self._window_ends:
            self._counts.clear()
            self._window_ends = now + WINDOW_SECONDS
        host = _host(address)
        if host not in self._counts and len(self._counts) == MAX_ADDRESSES:
            del self._counts[next(iter(self._counts))]
        self._counts[host] = self._counts.get(host, 0) + 1

    def remember(self, credential: str) -> None:
        """Remember that `credential` was right."""
        self._right[hash(credential)] = None
        self._right.move_to_end(hash(credential))
        if len(self._right) > MAX_REMEMBERED:
            self._right.popitem(last=False)


def _host(address: str) -> str:
    """The part of `address` that stands for one machine: all of IPv4, the first 64 bits of IPv6."""
    if ":" not in address:
        return address
    ip = IPv6Address(address)
    return str(ip.ipv4_mapped or IPv6Network((int(ip) >> 64 << 64, 64)))
