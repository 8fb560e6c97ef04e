"""Keeps web pages that an operator has open in a browser away from the server."""

from __future__ import annotations

import re
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from eztinker.api.errors import Refused, error_response
from eztinker.settings.addresses import is_loopback

_SAFE_METHODS = frozenset({"GET", "HEAD"})
_HOST = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::[0-9]{0,5})?")


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
        name = _name_in(host)
        if not name:
            return Refused(HTTPStatus.BAD_REQUEST, "bad_host", f"The Host header must be HOST:PORT, got {host[:100]!r}")
        if self._is_local and not is_loopback(name):
            return Refused(HTTPStatus.FORBIDDEN, "host_not_allowed", f"This server does not answer as {name[:100]!r}")
        origin = headers.get("origin")
        if origin is not None and method not in _SAFE_METHODS and _plain(origin.partition("://")[2]) != _plain(host):
            return Refused(
                HTTPStatus.FORBIDDEN, "origin_not_allowed", f"Origin {origin[:100]!r} may not change anything"
            )
        return None


def _plain(host: str) -> str:
    """A Host as browsers write an origin's: in small letters, without the port that goes without saying."""
    return host.lower().removesuffix(":80").removesuffix(":")


def _name_in(host: str) -> str:
    """The name in a Host header, without port and brackets; empty if it is not one."""
    match = _HOST.fullmatch(host)
    return "" if match is None else match["v6"] or match["name"]
