"""A time limit for short commands whose server has gone."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from eztinker.errors import ServerUnreachable
from eztinker.settings.client_settings import client_settings, server_is_up

_TIMEOUT_SECONDS = 10.0
"""Time for which a server may not answer, long enough to restart it; the SDK would retry for minutes."""
_LOOK_SECONDS = 1.0

T = TypeVar("T")


def while_server_answers(work: Callable[[], T]) -> T:
    """Run `work`, which uses the SDK, on a thread, and abandon it if the server stops answering.

    Returns:
        The result of `work`.
    Raises:
        ServerUnreachable: the server has not answered for ten seconds.
    """
    base_url = client_settings().base_url
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    threading.Thread(target=_fulfil, args=(outcome, work), name="sdk", daemon=True).start()
    last_seen = time.monotonic()
    while concurrent.futures.wait([outcome], _LOOK_SECONDS).not_done:
        if server_is_up(base_url):
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > _TIMEOUT_SECONDS:
            raise ServerUnreachable(
                f"The server at {base_url} stopped answering; start it again with: eztinker server, and repeat this"
            )
    return outcome.result()


def _fulfil(outcome: concurrent.futures.Future[T], work: Callable[[], T]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:  # any error is the caller's
        outcome.set_exception(error)
