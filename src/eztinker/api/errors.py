"""The only place where errors become responses: `{"detail": sentence, "error": {"code", "message", ...}}`."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from eztinker.errors import (
    AlreadyExists,
    ContextExceeded,
    EngineLost,
    EZTinkerError,
    InvalidInput,
    LogUnwritable,
    MalformedBody,
    NotFound,
    QueueFull,
    ResultGone,
    ServerError,
    SessionEnded,
    TooLarge,
    Unsupported,
    UserError,
)

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
    SessionEnded: HTTPStatus.GONE,
    ResultGone: HTTPStatus.GONE,
    QueueFull: HTTPStatus.TOO_MANY_REQUESTS,
    EngineLost: HTTPStatus.SERVICE_UNAVAILABLE,
    LogUnwritable: HTTPStatus.SERVICE_UNAVAILABLE,
    UserError: HTTPStatus.BAD_REQUEST,
    ServerError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The nearest base class in this table decides."""

_TRANSIENT = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
RETRY_AFTER_SECONDS = 1


class AccessDenied(UserError):
    """A request that may not even be looked at; it never leaves this package."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.denial = code


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(EZTinkerError, _answer_known)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_unknown)


def error_response(error: EZTinkerError) -> JSONResponse:
    """What the client gets to read for `error`."""
    if isinstance(error, AccessDenied):
        return _response(error.status, error.denial, error.message)
    status = next(_STATUS[base] for base in type(error).__mro__ if base in _STATUS)
    field = error.field if isinstance(error, InvalidInput) else None
    return _response(status, error.code, error.message, field=field)


async def _answer_known(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EZTinkerError)
    return error_response(error)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """What the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    return _response(HTTPStatus(error.status_code), "http_error", str(error.detail))


async def _answer_unknown(request: Request, error: Exception) -> JSONResponse:
    log.error("A request failed", exc_info=error, extra={"event": "request_failed", "path": request.scope["path"]})
    return _response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "The server failed; its log says why")


def _response(status: HTTPStatus, code: str, message: str, *, field: str | None = None) -> JSONResponse:
    error = {"code": code, "message": message} | ({"field": field} if field else {})
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status in _TRANSIENT else {"x-should-retry": "false"}
    return JSONResponse({"detail": message, "error": error}, status_code=status, headers=headers)
