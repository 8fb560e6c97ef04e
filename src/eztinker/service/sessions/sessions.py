"""Sessions: one per client program, alive while its heartbeats come."""

from __future__ import annotations

import uuid
from typing import Any

from eztinker.errors import SessionEnded
from eztinker.oplog import models, sessions
from eztinker.oplog.rows import Session, SessionStatus
from eztinker.oplog.store import Store
from eztinker.service.accounts.access import owned
from eztinker.service.clock import Clock
from eztinker.service.validation import check_metadata, check_text
from eztinker.types import Page, Record


class SessionRequest(Record):
    """A client's description of itself."""

    tags: list[str]
    user_metadata: dict[str, Any]
    sdk_version: str
    project_id: str | None
    display_name: str | None


class SessionContents(Record):
    """A session with the ids of all that hangs on it."""

    session: Session
    model_ids: list[str]
    sampling_session_ids: list[str]


class Sessions:
    """Opens and closes sessions, and knows when each was last used.

    Silence is measured only while this server runs: a client must not pay for our downtime.
    """

    def __init__(self, store: Store, clock: Clock, *, timeout_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._last_seen: dict[str, float] = {}
        """Monotonic time of the last request of every active session, by its id."""

    async def resume(self) -> None:
        """Go on with the sessions of earlier server processes, as if they had been used just now."""
        for session in await self._store.read(sessions.active_sessions):
            self._last_seen[session.session_id] = self._clock.monotonic()

    async def create(self, owner: str, request: SessionRequest, *, idempotency_key: str | None) -> Session:
        """Create a session, or get the one that the same idempotency key made before."""
        _check(request)
        check_text(idempotency_key, field="X-Idempotency-Key")
        session = Session(
            session_id=str(uuid.uuid4()),
            owner=owner,
            idempotency_key=idempotency_key,
            tags=request.tags,
            user_metadata=request.user_metadata,
            sdk_version=request.sdk_version,
            project_id=request.project_id,
            display_name=request.display_name,
            created_at=self._clock.now(),
        )
        stored = await self._store.write(lambda db: sessions.add_session(db, session))
        if stored.status is SessionStatus.ACTIVE:
            self._last_seen[stored.session_id] = self._clock.monotonic()
        return stored

    async def require_active(self, owner: str, session_id: str) -> Session:
        """Get an active session and note that its client is there.

        Raises:
            NotFound: the owner has no such session.
            SessionEnded: it is over.
        """
        session = await self._get(owner, session_id)
        if session.status is not SessionStatus.ACTIVE:
            raise SessionEnded(f"The session {session_id} is {session.status}; create a new ServiceClient")
        self._last_seen[session_id] = self._clock.monotonic()
        return session

    async def touch_session(self, owner: str, session_id: str) -> None:
        """Note that the owner uses the session now. Asks the log only if the session is not known to be alive.

        Raises:
            SessionEnded: the session is over.
        """
        if session_id in self._last_seen:
            self._last_seen[session_id] = self._clock.monotonic()
        else:
            await self.require_active(owner, session_id)

    async def finish(self, owner: str, session_id: str, *, reason: str, detail: str | None) -> bool:
        """End the session as its client asks; False if it was over already, and the first reason stays."""
        await self._get(owner, session_id)
        check_text(detail, field="detail")
        return await self._end(session_id, SessionStatus.FINISHED, reason, detail)

    async def expire_silent(self) -> None:
        """End the sessions that have been silent for too long."""
        oldest = self._clock.monotonic() - self._timeout_seconds
        silent = [session_id for session_id, seen in self._last_seen.items() if seen < oldest]
        for session_id in silent:
            await self._end(session_id, SessionStatus.EXPIRED, "expired", None)

    async def with_leftovers(self) -> list[str]:
        """Ids of ended sessions that still hold something, because the server died or the disk was full meanwhile."""
        return await self._store.read(sessions.with_leftovers)

    async def contents(self, owner: str, session_id: str) -> SessionContents:
        session = await self._get(owner, session_id)
        return await self._store.read(
            lambda db: SessionContents(
                session=session,
                model_ids=[model.model_id for model in models.of_session(db, session_id)],
                sampling_session_ids=sessions.sampling_session_ids(db, session_id),
            )
        )

    async def ids(self, owner: str, page: Page) -> list[str]:
        """Ids of the owner's sessions, newest first."""
        found = await self._store.read(lambda db: sessions.sessions_of(db, owner, page))
        return [session.session_id for session in found]

    async def _get(self, owner: str, session_id: str) -> Session:
        row = await self._store.read(lambda db: sessions.session(db, session_id))
        return owned(row, owner, f"session {session_id!r}")

    async def _end(self, session_id: str, status: SessionStatus, reason: str, detail: str | None) -> bool:
        now = self._clock.now()
        is_first = await self._store.write(
            lambda db: sessions.end_session(db, session_id, status, reason=reason, detail=detail, now=now)
        )
        self._last_seen.pop(session_id, None)  # only now: what the disk refuses is tried again
        return is_first


def _check(request: SessionRequest) -> None:
    check_metadata(request.user_metadata)
    check_metadata({"tags": request.tags}, field="tags")
    for field in ("sdk_version", "project_id", "display_name"):
        check_text(getattr(request, field), field=field)
