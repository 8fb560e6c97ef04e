"""The only place where errors become responses: `{"detail": sentence, "error": {"code", "message", ...}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from eztinker.errors import (
    AlreadyExists,
    CheckpointDamaged,
    ContextExceeded,
    DiskBroken,
    DiskFull,
    EngineLost,
    EZTinkerError,
    InvalidInput,
    LogUnwritable,
    MalformedBody,
    NotFound,
    QueueFull,
    ResultDamaged,
    ResultGone,
    ServerError,
    SessionEnded,
    TooLarge,
    Unsupported,
    UserError,
)
from eztinker.redaction import without_secrets

log = logging.getLogger(__name__)

_STATUS: dict[type[EZTinkerError], HTTPStatus] = {
    MalformedBody: HTTPStatus.BAD_REQUEST,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ContextExceeded: HTTPStatus.BAD_REQUEST,
    InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    Unsupported: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFound: HTTPStatus.NOT_FOUND,
    # 400, not 409: clients retry every 409 for five minutes, and a taken name stays taken
    AlreadyExists: HTTPStatus.BAD_REQUEST,
    # not 5xx either: what is damaged stays damaged, and a disk stays full until somebody reads that it is
    CheckpointDamaged: HTTPStatus.BAD_REQUEST,
    ResultDamaged: HTTPStatus.BAD_REQUEST,
    DiskFull: HTTPStatus.BAD_REQUEST,
    DiskBroken: HTTPStatus.BAD_REQUEST,
    SessionEnded: HTTPStatus.GONE,
    ResultGone: HTTPStatus.GONE,
    QueueFull: HTTPStatus.TOO_MANY_REQUESTS,
    EngineLost: HTTPStatus.SERVICE_UNAVAILABLE,
    LogUnwritable: HTTPStatus.SERVICE_UNAVAILABLE,
    UserError: HTTPStatus.BAD_REQUEST,
    ServerError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""HTTP status of each error class; the nearest base class in this table decides."""

_TRANSIENT = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
RETRY_AFTER_SECONDS = 1
MAX_SHOWN_CHARS = 100
"""Characters of a wrong value that the error message quotes."""


class RequestRefused(UserError):
    """A request that is turned away for its form, or for who sent it; it never leaves this package."""

    def __init__(
        self, status: HTTPStatus, reason: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        """Machine-readable reason, sent in place of the error's `code`."""
        self.headers = headers or {}


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(EZTinkerError, _answer_known)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_bad_parameter)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_unknown)


def error_response(error: EZTinkerError) -> JSONResponse:
    """The JSON response for `error`."""
    if isinstance(error, RequestRefused):
        return _response(error.status, error.reason, error.message, headers=error.headers)
    status = next(_STATUS[base] for base in type(error).__mro__ if base in _STATUS)
    field = error.field if isinstance(error, InvalidInput) else None
    return _response(status, error.code, error.message, field=field)


async def _answer_known(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EZTinkerError)
    return error_response(error)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """Answer what the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    return _response(status, status.name.lower(), str(error.detail))


async def _answer_bad_parameter(request: Request, error: Exception) -> JSONResponse:
    """Answer a path or query parameter that is not what the route declares."""
    assert isinstance(error, RequestValidationError)
    complaint = error.errors()[0]
    field = str(complaint["loc"][-1])
    message = f"{field}: {complaint['msg'].replace('Input', 'it')}, got {str(complaint['input'])[:MAX_SHOWN_CHARS]!r}"
    return _response(HTTPStatus.UNPROCESSABLE_ENTITY, InvalidInput.code, message, field=field)


async def _answer_nobody(request: Request, error: Exception) -> Response:
    """Answer a request whose client left before its end; nobody reads this."""
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _answer_unknown(request: Request, error: Exception) -> JSONResponse:
    log.error("A request failed", exc_info=error, extra={"event": "request_failed", "path": request.scope["path"]})
    return _response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "The server failed; its log says why")


def _response(
    status: HTTPStatus,
    code: str,
    message: str,
    *,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    message = without_secrets(message)  # not all come from errors of ours, which have none
    error = {"code": code, "message": message} | ({"field": field} if field else {})
    body: dict[str, Any] = {"detail": message, "error": error}
    retry = {"x-should-retry": "false"}
    if status in _TRANSIENT:
        is_share_full = status is HTTPStatus.TOO_MANY_REQUESTS
        state = "paused_rate_limit" if is_share_full else "paused_capacity"
        body |= {"queue_state": state, "queue_state_reason": message}
        retry = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    # the rest of a body over its limit is not read, so no other request can follow on the connection
    close = {"Connection": "close"} if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE else {}
    return JSONResponse(body, status_code=status, headers=retry | close | dict(headers or {}))
