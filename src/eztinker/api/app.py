"""The application: every route, what guards them, and the life of the service behind them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Depends, FastAPI

from eztinker.api.auth import authenticated_owner
from eztinker.api.browser_guard import BrowserGuard
from eztinker.api.errors import install_error_handlers
from eztinker.api.routes import (
    adapters,
    checkpoints,
    clients,
    futures,
    health,
    sampling,
    sessions,
    tokenizers,
    training,
    training_runs,
)
from eztinker.config import ServerConfig
from eztinker.service.engine_link import ENGINE_ARGV
from eztinker.service.service import Catalog, Service

API_PREFIX = "/api/v1"

_RESOURCES = (clients, sessions, training, sampling, futures, training_runs, checkpoints, adapters)


def create_app(config: ServerConfig, catalog: Catalog, *, engine_argv: Sequence[str] = ENGINE_ARGV) -> FastAPI:
    """The server as an ASGI application; its lifespan opens the log and starts the engine.

    Args:
        engine_argv: the engine's command line; the number of its socket is added.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(config, catalog, engine_argv=engine_argv)
        app.state.service = service
        async with service.running():
            yield

    # no generated documentation pages: they would be routes without a key
    app = FastAPI(title="EZTinker", lifespan=lifespan, root_path=config.root_path, openapi_url=None)
    install_error_handlers(app)
    app.add_middleware(BrowserGuard, host=config.host)
    app.include_router(health.router)
    for resource in (checkpoints, adapters):
        app.include_router(resource.open_router, prefix=API_PREFIX)
    with_key = APIRouter(prefix=API_PREFIX, dependencies=[Depends(authenticated_owner)])
    for resource in _RESOURCES:
        with_key.include_router(resource.router)
    app.include_router(with_key)
    app.include_router(tokenizers.router)  # last: its paths begin with the name of a model, which may be anything
    return app
