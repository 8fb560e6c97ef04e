"""Clients repeat 408, 409, 429 and every 5xx for five minutes, so only what passes by itself may have them."""

from __future__ import annotations

import ast
from http import HTTPStatus
from pathlib import Path

import pytest
from fastapi import FastAPI

import eztinker.api
from eztinker import errors
from eztinker.api.error_responses import error_response
from eztinker.api.http_server import http_server
from eztinker.api.routes.futures import MIN_HOLD_SHARE
from eztinker.errors import (
    Cancelled,
    EngineLost,
    EZTinkerError,
    LogFull,
    LogReplaced,
    LogUnwritable,
    QueueFull,
    ServerError,
    ServerUnreachable,
    StaleEpoch,
    UserError,
)
from eztinker.settings.server_config import ServerConfig

PASSING = {ServerError, QueueFull, EngineLost, LogFull, LogReplaced, LogUnwritable, StaleEpoch, ServerUnreachable}
"""A queue that empties, an engine that is replaced, a disk that is cleared, and faults of ours."""
KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, (UserError, ServerError))
]


def is_repeated(status: int) -> bool:
    return status in (408, 409, 429) or status >= 500


@pytest.mark.conforms(15)
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_stays_has_a_status_that_clients_do_not_repeat(kind: type[EZTinkerError]):
    error = Cancelled() if kind is Cancelled else kind("a sentence")
    assert is_repeated(error_response(error).status_code) == (kind in PASSING)


@pytest.mark.conforms(15)
def test_no_route_turns_requests_away_with_a_status_that_clients_repeat():
    """Except what may go better the next time: a body that comes too slowly, a key from where many guess."""
    used = {
        HTTPStatus[node.attr]
        for path in Path(eztinker.api.__file__).parent.rglob("*.py")
        if path.name != "error_responses.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "HTTPStatus"
    }
    assert HTTPStatus.FORBIDDEN in used
    assert {status for status in used if is_repeated(status)} == {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
    }


@pytest.mark.conforms(14)
def test_an_idle_connection_is_kept_for_longer_than_clients_pause():
    """What an idle connection is not closed for is shown in tests/integration/api/test_raw_http.py."""
    assert http_server(FastAPI()).config.timeout_keep_alive > 60


@pytest.mark.conforms(30)
def test_a_poll_is_held_for_a_good_while_and_for_less_than_a_client_waits():
    longest = ServerConfig.model_fields["poll_hold_seconds"].default
    assert 20 <= longest * MIN_HOLD_SHARE <= longest <= 40
