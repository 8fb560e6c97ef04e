"""The path under which a reverse proxy publishes the server."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class PublishedPath:
    """Middleware that tells the application its prefix, with which links are written.

    Requests may come with the prefix or, from a proxy that strips it, without.
    """

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["root_path"] = self._prefix
        await self._app(scope, receive, send)
