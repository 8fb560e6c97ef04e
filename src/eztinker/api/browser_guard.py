"""Keeps web pages that an operator has open in a browser away from the server."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from eztinker.addresses import is_loopback
from eztinker.api.errors import Refused, error_response

_SAFE_METHODS = frozenset({"GET", "HEAD"})


class BrowserGuard:
    """Refuses foreign Host names where the server listens on loopback, and changes asked for by foreign origins.

    A name that resolves to 127.0.0.1 makes a browser send its pages' requests here (DNS rebinding); such a request
    carries that name as its Host. Behind an address that others reach, any name may be the right one.
    """

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        self._app = app
        self._is_local = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (denied := self._denial(scope["method"], Headers(scope=scope))) is not None:
            await error_response(denied)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _denial(self, method: str, headers: Headers) -> Refused | None:
        host = headers.get("host", "")
        if self._is_local and not is_loopback(_host_name(host)):
            return Refused(HTTPStatus.FORBIDDEN, "host_not_allowed", f"This server does not answer as {host!r}")
        origin = headers.get("origin")
        if origin is not None and method not in _SAFE_METHODS and urlsplit(origin).netloc != host:
            return Refused(HTTPStatus.FORBIDDEN, "origin_not_allowed", f"Origin {origin!r} may not change anything")
        return None


def _host_name(host: str) -> str:
    """The name in a Host header, without port and brackets; empty if it is not one."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "" if parts.netloc == host else ""
    except ValueError:
        return ""
