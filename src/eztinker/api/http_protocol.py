"""HTTP/1.1 with bounds on the head of a request: its size, its number of headers, and the time it may take.

The parser itself has none: a client could send headers for ever, before any route or key is looked at.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eztinker.api.joined_writes import JoinedWrites

MAX_TARGET_BYTES = 8 << 10
MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 256
HEAD_SECONDS = 30.0
_ABSOLUTE = re.compile(
    rb"http://(?P<host>[^/?#@\\\s]+)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?",
    re.IGNORECASE,
)
PEER = "peer"
"""In a request's state: the address its connection comes from. `client` is what a proxy's headers make of it."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which answers a bad head in JSON and closes the connection."""

    _num_head_bytes = 0
    """Of a head that is not complete."""
    _refusal: tuple[HTTPStatus, str] | None = None
    """Why the parser was stopped from within a callback."""
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedWrites(transport, self.loop))
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_reading_head = self._head_timer is not None
        super().data_received(data)
        if was_reading_head and self._head_timer is not None:
            self._num_head_bytes += len(data)
            if self._num_head_bytes > MAX_HEAD_BYTES:
                self._close_with(*_head_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.client is not None:
            self.scope.setdefault("state", {})[PEER] = self.client[0]
        if self._head_timer is None:
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        self._num_head_bytes = 0
        self._refusal = self._fault() or self._take_host_of_target()
        if self._refusal is not None:
            raise ValueError(self._refusal[1])  # stops the parser, which ends in send_400_response
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._close_with(*(self._refusal or (HTTPStatus.BAD_REQUEST, msg)))

    def _fault(self) -> tuple[HTTPStatus, str] | None:
        if len(self.url) > MAX_TARGET_BYTES:
            return HTTPStatus.REQUEST_URI_TOO_LONG, f"The path and query may have {MAX_TARGET_BYTES} bytes"
        if len(self.headers) > MAX_HEADERS:
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"A request may have {MAX_HEADERS} headers"
        if sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            return _head_too_large()
        return None

    def _take_host_of_target(self) -> tuple[HTTPStatus, str] | None:
        """Make a target that names its host, as a proxy is sent, the path it asks for, and that host the request's.

        The Host header then counts for nothing (RFC 9112, 3.2.2), so whoever looks at it sees the one that does.
        """
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) != 1:
            return HTTPStatus.BAD_REQUEST, f"A request must have one Host header, got {len(hosts)}"
        if self.url.startswith(b"/") or self.url == b"*":
            return None
        target = _ABSOLUTE.fullmatch(self.url)
        if target is None:
            return HTTPStatus.BAD_REQUEST, "The target of a request must be a path, or an http:// URL without a user"
        self.url = (target["path"] or b"/") + (target["query"] or b"")
        self.headers[:] = [(b"host", target["host"]), *(header for header in self.headers if header[0] != b"host")]
        return None

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._time_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _time_out(self) -> None:
        self._close_with(HTTPStatus.REQUEST_TIMEOUT, f"The head of a request must come within {HEAD_SECONDS:.0f} s")

    def _close_with(self, status: HTTPStatus, message: str) -> None:
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        body = orjson.dumps({"detail": message, "error": {"code": status.name.lower(), "message": message}})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-should-retry: false\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _head_too_large() -> tuple[HTTPStatus, str]:
    return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The headers of a request may have {MAX_HEAD_BYTES} bytes"
