"""HTTP/1.1 as bytes over kept connections: little enough work that tens of thousands of exchanges cost seconds."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.servers import API_KEY
from tests.wire import PROTOBUF

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer as it was on the wire."""

    head: bytes
    body: bytes

    @property
    def raw(self) -> bytes:
        return self.head + self.body

    @property
    def first_line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first_line.split(b" ")[1])


def post_message(endpoint: str, body: bytes, content_type: str = "application/json", **headers: str) -> Message:
    """A request to the API with the key of the test servers; underscores in names of `headers` stand for dashes."""
    fields = {"host": "127.0.0.1", "x-api-key": API_KEY, "content-type": content_type, "accept": PROTOBUF}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"POST /api/v1{endpoint} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    lines.append(f"content-length: {len(body)}\r\n\r\n")
    return Message("\r\n".join(lines).encode(), body)


async def read_message(reader: asyncio.StreamReader) -> Message:
    """The next one on a connection.

    Raises:
        EOFError: the other side has closed it.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    assert not _CHUNKED.search(head), head
    length = _LENGTH.search(head)
    return Message(head, await reader.readexactly(int(length[1])) if length else b"")


class Connections:
    """Connections to one server, used again when their last exchange is over."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def exchange(self, request: Message) -> Message:
        """Send `request` once and give its answer.

        Raises:
            ConnectionError, EOFError: there was none.
        """
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        try:
            writer.write(request.raw)
            answer = await read_message(reader)
        except BaseException:
            writer.transport.abort()
            raise
        self._idle.append((reader, writer))
        return answer

    def close(self) -> None:
        for _, writer in self._idle:
            writer.transport.abort()
