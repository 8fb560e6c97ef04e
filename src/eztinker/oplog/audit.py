"""Queries on the audit log: who did what to an owner's objects."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, select

from eztinker.oplog import queries
from eztinker.oplog.rows import AuditEntry
from eztinker.oplog.schema import audit_entries


def add(db: Connection, entry: AuditEntry) -> None:
    queries.add(db, audit_entries, entry)


def between(db: Connection, owner: str, start: datetime, end: datetime, *, resource: str | None) -> list[AuditEntry]:
    """What happened to the owner's objects from `start` and before `end`, oldest first; to all kinds or to one."""
    query = select(audit_entries).where(
        audit_entries.c.owner == owner, audit_entries.c.created_at >= start, audit_entries.c.created_at < end
    )
    if resource is not None:
        query = query.where(audit_entries.c.event.startswith(f"{resource}_", autoescape=True))
    return queries.many(db, query.order_by(audit_entries.c.entry_id), AuditEntry)


def forget(db: Connection, before: datetime) -> None:
    db.execute(delete(audit_entries).where(audit_entries.c.created_at < before))
