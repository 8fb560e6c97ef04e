"""The ASGI application: every route, the middleware in front of them, and the lifespan of the service behind them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

from eztinker.api.body_budget import BodyBudget, BodyHolds
from eztinker.api.error_responses import install_error_handlers
from eztinker.api.guards import OriginGuard, PathGuard
from eztinker.api.published_path import PublishedPath
from eztinker.api.routes import (
    adapters,
    audit,
    billing,
    checkpoints,
    clients,
    futures,
    health,
    keys,
    runs,
    sampling,
    session_search,
    sessions,
    status,
    tokenizers,
    training,
    training_runs,
    uploads,
)
from eztinker.api.wrong_keys import WrongKeys
from eztinker.service.execution.engine_link import ENGINE_ARGV, EngineLink
from eztinker.service.service import Catalog, Service
from eztinker.settings.server_config import ServerConfig

MIN_GZIP_BYTES = 1024
GZIP_LEVEL = 1
_NOT_GZIPPED = ("application/x-protobuf", "application/octet-stream", "text/plain", "application/x-ndjson")
"""Media types sent as they are: results and weights, which hardly shrink, and streams, which must not wait."""

_ROUTERS = (
    futures.router,
    training.router,
    sampling.router,
    sessions.router,
    clients.router,
    keys.router,
    session_search.router,
    session_search.open_router,
    training_runs.router,
    runs.router,
    checkpoints.router,
    checkpoints.open_router,
    adapters.router,
    adapters.open_router,
    uploads.router,
    uploads.open_router,
    audit.router,
    billing.router,
    health.router,
    status.router,
    tokenizers.router,  # last: its paths begin with the name of a model, which may be anything
)
"""Every router, the busiest first: routes are tried in this order."""


def create_app(config: ServerConfig, catalog: Catalog, *, engine_argv: Sequence[str] = ENGINE_ARGV) -> FastAPI:
    """The server as an ASGI application; its lifespan opens the log and starts the engine.

    Args:
        engine_argv: the engine's command line; the file descriptor of its socket is appended.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(config, catalog, spawn=partial(EngineLink.spawn, engine_argv))
        app.state.service = service
        async with service.running():
            yield

    # no generated documentation pages: they would be routes without a key
    app = FastAPI(title="EZTinker", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.wrong_keys = WrongKeys(config.max_wrong_keys)
    app.state.body_budget = BodyBudget(config.max_body_bytes)
    install_error_handlers(app)
    app.add_middleware(
        GZipMiddleware, minimum_size=MIN_GZIP_BYTES, compresslevel=GZIP_LEVEL, exclude_content_types=_NOT_GZIPPED
    )
    app.add_middleware(OriginGuard, host=config.host)
    app.add_middleware(PathGuard)
    app.add_middleware(BodyHolds, budget=app.state.body_budget)
    app.add_middleware(PublishedPath, prefix=config.root_path)
    # The routes themselves: an included router would be matched again for each request, at every level of inclusion.
    app.router.routes.extend(route for router in _ROUTERS for route in router.routes)
    return app
