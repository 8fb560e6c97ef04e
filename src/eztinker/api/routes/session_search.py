"""Past and present sessions: search, the project they belong to, and traces of their requests."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from eztinker.api.auth import Owner, ServiceDep, router_with_key, router_without_key
from eztinker.api.listing import signed_url
from eztinker.api.reading import read_json
from eztinker.api.search_bodies import ProjectBody, SearchSessionsBody
from eztinker.service.accounts.signed_links import LIFETIME, Signature
from eztinker.service.sessions.session_search import FoundSession, Session, as_text
from eztinker.service.sessions.sessions import SessionStatus

router = router_with_key()
open_router = router_without_key()
"""Routes that a signature opens instead of a key."""


@router.post("/sessions/search")
async def search_sessions(request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    body = await read_json(request, SearchSessionsBody)
    if not body.owner.includes(owner):
        return {"sessions": [], "next_cursor": None}
    found, has_more = await service.session_search.find(owner, body.query())
    return {
        "sessions": [_summary(one) for one in found],
        "next_cursor": _cursor(found[-1].session) if has_more else None,
    }


@router.put("/sessions/{session_id}/project")
async def assign_session_project(
    session_id: str, request: Request, service: ServiceDep, owner: Owner
) -> dict[str, Any]:
    body = await read_json(request, ProjectBody)
    await service.session_search.assign_project(owner, session_id, body.project_id)
    return {}


@router.get("/sessions/{session_id}/trace_export")
async def export_session_trace(session_id: str, request: Request, service: ServiceDep, owner: Owner) -> dict[str, Any]:
    """A link to the trace, which is always ready: it is made when it is fetched."""
    await service.traces.check(owner, session_id)
    signature = service.links.sign("trace", session_id, expires_at=service.clock.now() + LIFETIME)
    return {"status": "ready", "url": signed_url(request, "session_trace", signature, session_id=session_id)}


@open_router.get("/traces/{session_id}")
async def session_trace(session_id: str, expires: int, signature: str, service: ServiceDep) -> Response:
    """A session's timeline in Perfetto's format, for the holder of a signed link."""
    signed = Signature(expires=expires, signature=signature)
    service.links.check("trace", session_id, signature=signed, now=service.clock.now())
    return Response(await service.traces.export(session_id), media_type="application/octet-stream")


def _summary(found: FoundSession) -> dict[str, Any]:
    session = found.session
    return {
        "session_id": session.session_id,
        "created_at": session.created_at.isoformat(),
        "owner": session.owner,
        "project_id": found.project_id,
        "status": _status(session),
        "checkpoints_count": found.stored.count,
        "checkpoint_storage_bytes": found.stored.size_bytes,
        "display_name": session.display_name,
        "user_metadata": as_text(session.user_metadata),
    }


def _cursor(last: Session) -> dict[str, str]:
    return {"last_created_at": last.created_at.isoformat(), "last_session_id": last.session_id}


def _status(session: Session) -> dict[str, Any] | None:
    """A session's status as JSON; None if it expired: its client stopped without saying that it finished."""
    match session.status:
        case SessionStatus.ACTIVE:
            return {"type": "active"}
        case SessionStatus.FINISHED:
            return {"type": "client_finished", "reason": {"type": session.end_reason}, "detail": session.end_detail}
        case SessionStatus.EXPIRED:
            return None
