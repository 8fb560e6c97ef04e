"""The HTTP server around the application: uvicorn, with bounds on request heads, joined writes and a quick shutdown."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from http import HTTPStatus
from types import FrameType
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eztinker.api.server_log import LOG_CONFIG
from eztinker.service.service import Service

KEEP_ALIVE_SECONDS = 120
"""Longer than any pause of a client between requests, so that it never writes into a connection being closed."""
MAX_TARGET_BYTES = 8 << 10
"""Longest path and query of a request."""
MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 256
HEAD_SECONDS = 30.0
"""Longest time that the head of a request may take to arrive."""
PEER = "peer"
"""Key in a request's state of the address its connection comes from; `client` is what a proxy's headers make of it."""
_ABSOLUTE_TARGET = re.compile(
    rb"http://(?P<host>[^/?#@\\\s]+)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?",
    re.IGNORECASE,
)


def http_server(app: FastAPI, *, port: int = 0, drain_seconds: int = 10) -> uvicorn.Server:
    """A server for `app`, to be run on an open socket or on `port` of this machine.

    Args:
        drain_seconds: time that running requests get to finish once the server is told to stop.
    """
    return DrainingServer(
        uvicorn.Config(
            app,
            port=port,
            http=BoundedHttpProtocol,
            ws="none",
            log_config=LOG_CONFIG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=drain_seconds,
            server_header=False,
        )
    )


class DrainingServer(uvicorn.Server):
    """A uvicorn server that releases held polls on the first signal, and ends at once on the second.

    It also stops when the engine refuses its settings, after which nothing could ever be computed.
    Nothing is lost by ending at once: whatever was acknowledged is in the log, and the next server goes on from there.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._service.engine.refusal is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.futures.release_polls()
        await super().shutdown(sockets)

    @property
    def _service(self) -> Service:
        return self.config.app.state.service  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with bounds on a request's head: its size, its number of headers, and its time.

    The parser itself has none: a client could send headers for ever, before any route or key is looked at. A bad head
    is answered in JSON, and the connection is closed.
    """

    _num_head_bytes = 0
    """Bytes received of a head that is not complete."""
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
        """Split a target in absolute form, as proxies are sent, into the path it asks for and the request's host.

        The Host header is then ignored (RFC 9112, 3.2.2), and replaced by the host of the target.
        """
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) != 1:
            return HTTPStatus.BAD_REQUEST, f"A request must have one Host header, got {len(hosts)}"
        if self.url.startswith(b"/") or self.url == b"*":
            return None
        target = _ABSOLUTE_TARGET.fullmatch(self.url)
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


class JoinedWrites(asyncio.Transport):
    """A transport that sends the head and the body of an answer together, although they are written one by one.

    A write waits for the next one, but no longer than this turn of the event loop. Two pieces would cost two system
    calls, and wake the client for a head that it can do nothing with.
    """

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
