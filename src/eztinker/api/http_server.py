"""How the application is served: uvicorn, bounded, and stopping without losing anything."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

from eztinker.api.draining_server import DrainingServer
from eztinker.api.http_protocol import BoundedHttpProtocol
from eztinker.api.server_log import LOG_CONFIG

KEEP_ALIVE_SECONDS = 120
"""Longer than any pause of a client between requests, so that it never writes into a connection being closed."""


def http_server(app: FastAPI, *, port: int = 0, drain_seconds: int = 10) -> uvicorn.Server:
    """A server for `app`, to be run on a socket of one's own or on `port` of this machine.

    Args:
        drain_seconds: what requests in hand get to finish once the server is told to stop.
    """
    return DrainingServer(
        uvicorn.Config(
            app,
            port=port,
            http=BoundedHttpProtocol,
            ws="none",
            log_config=LOG_CONFIG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=drain_seconds,
            server_header=False,
        )
    )
