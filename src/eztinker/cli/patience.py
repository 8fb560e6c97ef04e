"""How long a short command waits for a server that has gone."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from eztinker.errors import ServerUnreachable
from eztinker.settings.client_settings import client_settings, server_is_up

_PATIENCE_SECONDS = 10.0
"""Enough for a server that is started again; the SDK would go on asking for minutes."""
_LOOK_SECONDS = 1.0

T = TypeVar("T")


def while_server_answers(work: Callable[[], T]) -> T:
    """What `work`, which goes through the SDK, comes to. It is left to itself when the server is gone for too long.

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
        elif time.monotonic() - last_seen > _PATIENCE_SECONDS:
            raise ServerUnreachable(
                f"The server at {base_url} stopped answering; start it again with: eztinker server, and repeat this"
            )
    return outcome.result()


def _fulfil(outcome: concurrent.futures.Future[T], work: Callable[[], T]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:  # whatever it is, it belongs to whoever waits
        outcome.set_exception(error)
