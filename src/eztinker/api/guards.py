"""Guards in front of every route: plain paths only, and no web page that an operator has open in a browser."""

from __future__ import annotations

import re
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from eztinker.api.error_responses import RequestRefused, error_response
from eztinker.settings.addresses import is_loopback

_ENCODED_DELIMITER = re.compile(rb"%(?:2e|2f|5c|25)", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"//|\\|[\x00-\x1f\x7f]|/\.{1,2}(?:/|$)")
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_HOST = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::[0-9]{0,5})?")


class PathGuard:
    """Refuses paths with empty or dotted segments, backslashes, or encoded delimiters.

    A proxy before this server and the router in it may understand such a path differently.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_ambiguous(scope):
            refused = RequestRefused(
                HTTPStatus.BAD_REQUEST, "ambiguous_path", "The path of this request is not a plain one"
            )
            await error_response(refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_ambiguous(scope: Scope) -> bool:
    path = scope["path"]
    return not path.startswith("/") or bool(_AMBIGUOUS.search(path) or _ENCODED_DELIMITER.search(scope["raw_path"]))


class OriginGuard:
    """Refuses foreign Host names where the server listens on loopback, and writes from foreign origins.

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

    def _denial(self, method: str, headers: Headers) -> RequestRefused | None:
        host = headers.get("host", "")
        name = _name_in(host)
        if not name:
            return RequestRefused(
                HTTPStatus.BAD_REQUEST, "bad_host", f"The Host header must be HOST:PORT, got {host[:100]!r}"
            )
        if self._is_local and not is_loopback(name):
            return RequestRefused(
                HTTPStatus.FORBIDDEN, "host_not_allowed", f"This server does not answer as {name[:100]!r}"
            )
        origin = headers.get("origin")
        if origin is not None and method not in _SAFE_METHODS and _plain(origin.partition("://")[2]) != _plain(host):
            return RequestRefused(
                HTTPStatus.FORBIDDEN, "origin_not_allowed", f"Origin {origin[:100]!r} may not change anything"
            )
        return None


def _plain(host: str) -> str:
    """A Host in lower case and without the default port, as browsers write it in an Origin."""
    return host.lower().removesuffix(":80").removesuffix(":")


def _name_in(host: str) -> str:
    """The name in a Host header, without port and brackets; empty if it is not one."""
    match = _HOST.fullmatch(host)
    return "" if match is None else match["v6"] or match["name"]
