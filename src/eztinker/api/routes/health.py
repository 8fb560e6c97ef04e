"""Liveness and readiness of the server; neither route needs a key."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from eztinker.api.auth import ServiceDep

router = APIRouter()


@router.get("/healthz")
@router.get("/api/v1/healthz")
async def healthz() -> JSONResponse:
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(service: ServiceDep) -> JSONResponse:
    """Answer 200 once the engine takes commands, else 503."""
    if service.engine.ready is None:
        return JSONResponse({"status": "starting", "detail": "The engine is starting"}, status_code=503)
    # Why there are no kernels is for those with a key, on /status: it may quote paths of this machine.
    return JSONResponse({"status": "ready", "kernels": service.engine.ready.kernels.partition(":")[0] or None})
