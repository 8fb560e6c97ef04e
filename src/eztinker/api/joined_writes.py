"""A transport that sends an answer in one piece, although its head and its body are written one after the other.

Two pieces cost two system calls, and wake the client for a head that it can do nothing with.
"""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites(asyncio.Transport):
    """Keeps what is written until there is more, which goes with it, but no longer than this turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._kept: bytes | bytearray | memoryview | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._kept is None:
            self._kept = data
            self._loop.call_soon(self._flush)
        else:
            pieces, self._kept = (self._kept, data), None
            self._transport.writelines(pieces)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def _flush(self) -> None:
        if self._kept is not None:
            data, self._kept = self._kept, None
            self._transport.write(data)
