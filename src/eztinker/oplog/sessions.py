"""Queries on sessions and sampling sessions."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Select, bindparam, exists, func, or_, select, update

from eztinker.oplog import queries
from eztinker.oplog.rows import (
    DEFAULT_PROJECT,
    ModelStatus,
    OperationStatus,
    SamplingSession,
    Session,
    SessionStatus,
)
from eztinker.oplog.schema import checkpoints, models, operations, sampling_sessions, sessions
from eztinker.types import Page

newest_first = (sessions.c.created_at.desc(), sessions.c.session_id.desc())
project = func.coalesce(sessions.c.project_id, DEFAULT_PROJECT)
_BY_ID = select(sessions).where(sessions.c.session_id == bindparam("session_id"))


def add_session(db: Connection, session: Session) -> Session:
    """Store `session`, or return the one that its owner already made with the same idempotency key."""
    if session.idempotency_key is not None:
        query = select(sessions).where(
            sessions.c.owner == session.owner, sessions.c.idempotency_key == session.idempotency_key
        )
        if (existing := queries.one(db, query, Session)) is not None:
            return existing
    queries.add(db, sessions, session)
    return session


def session(db: Connection, session_id: str) -> Session | None:
    return queries.one(db, _BY_ID, Session, {"session_id": session_id})


def active_sessions(db: Connection) -> list[Session]:
    return queries.many(db, select(sessions).where(sessions.c.status == SessionStatus.ACTIVE), Session)


def sessions_of(db: Connection, owner: str, page: Page) -> list[Session]:
    """The owner's sessions, newest first."""
    query = select(sessions).where(sessions.c.owner == owner).order_by(*newest_first)
    return queries.many(db, query.offset(page.offset).limit(page.limit), Session)


def end_session(
    db: Connection, session_id: str, status: SessionStatus, *, reason: str | None, detail: str | None, now: datetime
) -> bool:
    """End an active session; False if it has ended already, in which case its first reason stays."""
    ended = db.execute(
        update(sessions)
        .where(sessions.c.session_id == session_id, sessions.c.status == SessionStatus.ACTIVE)
        .values(status=status, end_reason=reason, end_detail=detail, ended_at=now)
    )
    return ended.rowcount == 1


def with_leftovers(db: Connection) -> list[str]:
    """Ids of ended sessions that still have a loaded model or unnamed checkpoints."""
    loaded = models.c.status == ModelStatus.ACTIVE
    has_unnamed = exists().where(
        checkpoints.c.model_id == models.c.model_id, checkpoints.c.name.is_(None), checkpoints.c.removed_at.is_(None)
    )
    query = select(models.c.session_id).join(sessions).where(sessions.c.status != SessionStatus.ACTIVE)
    return list(db.execute(query.where(or_(loaded, has_unnamed)).distinct()).scalars())


def add_sampling_session(db: Connection, sampling_session: SamplingSession) -> SamplingSession:
    """Store a sampling session, or return the stored one with the same number in the same session."""
    if sampling_session.seq_id is not None:
        query = select(sampling_sessions).where(
            sampling_sessions.c.session_id == sampling_session.session_id,
            sampling_sessions.c.seq_id == sampling_session.seq_id,
        )
        if (existing := queries.one(db, query, SamplingSession)) is not None:
            return existing
    queries.add(db, sampling_sessions, sampling_session)
    return sampling_session


def sampling_session(db: Connection, sampling_session_id: str) -> SamplingSession | None:
    query = select(sampling_sessions).where(sampling_sessions.c.sampling_session_id == sampling_session_id)
    return queries.one(db, query, SamplingSession)


def current_checkpoint_id(db: Connection, sampling_session: SamplingSession) -> str | None:
    """Id of the checkpoint to sample from now: the session's own, or its model's newest inflight save."""
    if sampling_session.inflight_model_id is None:
        return sampling_session.checkpoint_id
    return db.execute(newest_inflight_save(sampling_session.inflight_model_id)).scalar_one()


def newest_inflight_save(model_id: str) -> Select:
    """A query for the checkpoint id of the model's newest inflight save."""
    of_run = select(sampling_sessions.c.checkpoint_id).where(sampling_sessions.c.inflight_model_id == model_id)
    return of_run.order_by(sampling_sessions.c.save_seq_id.desc()).limit(1)


def sampled_checkpoint_ids(db: Connection) -> set[str]:
    """Ids of the checkpoints that pending samples may be drawn from.

    A sample from an inflight save uses the one that was newest when it was requested, which may be superseded by now.
    """
    asked, drawn = sampling_sessions.alias(), sampling_sessions.alias()
    waiting = select(asked.c.sampling_session_id, asked.c.inflight_model_id).where(
        exists().where(operations.c.lane == asked.c.sampling_session_id, operations.c.status == OperationStatus.PENDING)
    )
    of_waiting = waiting.subquery()
    query = select(drawn.c.checkpoint_id).join(
        of_waiting,
        or_(
            drawn.c.sampling_session_id == of_waiting.c.sampling_session_id,
            drawn.c.inflight_model_id == of_waiting.c.inflight_model_id,
        ),
    )
    return {checkpoint_id for checkpoint_id in db.execute(query).scalars() if checkpoint_id is not None}


def count_clone(db: Connection, sampling_session_id: str) -> int:
    """Count one more copy of a sampling session's client; returns its number, from 1."""
    row = sampling_sessions.c.sampling_session_id == sampling_session_id
    db.execute(update(sampling_sessions).where(row).values(num_clones=sampling_sessions.c.num_clones + 1))
    return db.execute(select(sampling_sessions.c.num_clones).where(row)).scalar_one()


def sampling_session_ids(db: Connection, session_id: str) -> list[str]:
    query = select(sampling_sessions.c.sampling_session_id).where(sampling_sessions.c.session_id == session_id)
    return list(db.execute(query.order_by(sampling_sessions.c.created_at)).scalars())
