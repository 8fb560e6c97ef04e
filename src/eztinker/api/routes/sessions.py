"""Sessions: one per client program."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from eztinker.api.auth import Owner, ServiceDep, router_with_key
from eztinker.api.bodies import CreateSessionBody, FinishSessionBody, HeartbeatBody
from eztinker.api.listing import AccessScope, Limit, Offset
from eztinker.api.reading import read_json
from eztinker.service.sessions.session_search import as_text
from eztinker.service.sessions.sessions import SessionRequest
from eztinker.types import Page

router = router_with_key()


@router.post("/create_session")
async def create_session(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json(request, CreateSessionBody)
    session = await service.sessions.create(
        owner,
        SessionRequest(
            tags=list(body.tags),
            user_metadata=body.user_metadata or {},
            sdk_version=body.sdk_version,
            project_id=body.project_id,
            display_name=body.display_name,
        ),
        idempotency_key=request.headers.get("x-idempotency-key"),
    )
    return {"session_id": session.session_id, "type": "create_session"}


@router.post("/session_heartbeat")
async def session_heartbeat(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    """Keep a session alive; 410 if it has ended."""
    body = await read_json(request, HeartbeatBody)
    await service.sessions.require_active(owner, body.session_id)
    return {"type": "session_heartbeat"}


@router.post("/sessions/{session_id}/finish")
async def finish_session(session_id: str, request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json(request, FinishSessionBody)
    if await service.sessions.finish(owner, session_id, reason=body.reason.type, detail=body.detail):
        await service.end_session(session_id)
    return {}


@router.get("/sessions")
async def list_sessions(
    service: ServiceDep, owner: Owner, limit: Limit = 20, offset: Offset = 0, access_scope: AccessScope = "owned"
) -> dict[str, Any]:
    return {"sessions": await service.sessions.ids(owner, Page(offset=offset, limit=limit))}


@router.get("/sessions/{session_id}")
async def get_session(
    session_id: str, service: ServiceDep, owner: Owner, access_scope: AccessScope = "owned"
) -> dict[str, Any]:
    contents = await service.sessions.contents(owner, session_id)
    return {
        "training_run_ids": contents.model_ids,
        "sampler_ids": contents.sampling_session_ids,
        "user_metadata": as_text(contents.session.user_metadata),
        "display_name": contents.session.display_name,
    }
