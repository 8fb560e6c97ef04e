"""Queries over an owner's sessions: search, stored checkpoints per session or project, and timelines."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

from sqlalchemy import Connection, and_, false, func, or_, select, union, update

from eztinker.oplog import queries
from eztinker.oplog.rows import OperationStatus, Session, SessionStatus
from eztinker.oplog.schema import checkpoints, models, operations, sampling_sessions, sessions
from eztinker.oplog.sessions import newest_first, project
from eztinker.types import Record


class StatusFilter(Record):
    """A condition on a session's status and, for finished sessions, on the reason; None allows any reason."""

    status: SessionStatus
    reasons: tuple[str, ...] | None = None


class Stored(Record):
    """Number and size of the named checkpoints of one session or project."""

    count: int = 0
    size_bytes: int = 0


class TimedOperation(Record):
    """One request of a session with its times."""

    lane: str
    kind: str
    seq_id: int | None
    status: OperationStatus
    error_code: str | None
    created_at: datetime
    finished_at: datetime | None


def walk(
    db: Connection,
    owner: str,
    *,
    project_ids: Collection[str] | None,
    statuses: Collection[StatusFilter] | None,
    after: tuple[datetime, str] | None,
) -> Iterator[Session]:
    """The owner's sessions that match, newest first, each read as it is consumed.

    Args:
        after: creation time and id of the session after which to begin.
    """
    query = select(sessions).where(sessions.c.owner == owner)
    if project_ids is not None:
        query = query.where(project.in_(project_ids))
    if statuses is not None:
        query = query.where(or_(false(), *map(_has_status, statuses)))
    if after is not None:
        created_at, session_id = after
        is_older = sessions.c.created_at < created_at
        query = query.where(
            or_(is_older, and_(sessions.c.created_at == created_at, sessions.c.session_id < session_id))
        )
    for row in db.execute(query.order_by(*newest_first)):
        yield queries.record(row, Session)


def stored_by_session(db: Connection, session_ids: Collection[str], now: datetime) -> dict[str, Stored]:
    """Stored checkpoints of each of these sessions; sessions without any are left out."""
    return _stored(db, sessions.c.session_id, sessions.c.session_id.in_(session_ids), now)


def stored_by_project(db: Connection, owner: str, now: datetime) -> dict[str, Stored]:
    """Stored checkpoints of the owner's sessions by project."""
    return _stored(db, project, sessions.c.owner == owner, now)


def assign_project(db: Connection, session_id: str, project_id: str) -> None:
    db.execute(update(sessions).where(sessions.c.session_id == session_id).values(project_id=project_id))


def timeline(db: Connection, session_id: str) -> list[TimedOperation]:
    """All requests of a session in the order of their arrival."""
    lanes = union(
        select(models.c.model_id).where(models.c.session_id == session_id),
        select(sampling_sessions.c.sampling_session_id).where(sampling_sessions.c.session_id == session_id),
    )
    columns = [operations.c[name] for name in TimedOperation.__struct_fields__]
    query = select(*columns).where(operations.c.lane.in_(lanes)).order_by(operations.c.created_at, operations.c.seq_id)
    return queries.many(db, query, TimedOperation)


def _has_status(wanted: StatusFilter):
    if wanted.reasons is None:
        return sessions.c.status == wanted.status
    return and_(sessions.c.status == wanted.status, sessions.c.end_reason.in_(wanted.reasons))


def _stored(db: Connection, group, which, now: datetime) -> dict:
    query = (
        select(group, func.count(), func.sum(checkpoints.c.size_bytes))
        .select_from(checkpoints.join(models).join(sessions))
        .where(which, checkpoints.c.name.is_not(None), checkpoints.c.removed_at.is_(None))
        .where(or_(checkpoints.c.expires_at.is_(None), checkpoints.c.expires_at > now))
        .group_by(group)
    )
    return {key: Stored(count=count, size_bytes=size_bytes) for key, count, size_bytes in db.execute(query)}
