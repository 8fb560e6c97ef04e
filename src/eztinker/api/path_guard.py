"""Refuses paths that two readers may understand differently, such as a proxy before this server and its router."""

from __future__ import annotations

import re
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from eztinker.api.errors import Refused, error_response

_ENCODED_DELIMITER = re.compile(rb"%(?:2e|2f|5c|25)", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"//|\\|[\x00-\x1f\x7f]|/\.{1,2}(?:/|$)")


class PathGuard:
    """Lets plain paths through: no empty or dotted segments, no backslashes, no encoded delimiters."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_ambiguous(scope):
            refused = Refused(HTTPStatus.BAD_REQUEST, "ambiguous_path", "The path of this request is not a plain one")
            await error_response(refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_ambiguous(scope: Scope) -> bool:
    path = scope["path"]
    return not path.startswith("/") or bool(_AMBIGUOUS.search(path) or _ENCODED_DELIMITER.search(scope["raw_path"]))
