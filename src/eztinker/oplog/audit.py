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
    """Entries about the owner's objects from `start` up to but not at `end`, oldest first.

    Args:
        resource: kind of object, the first word of the event; None for all kinds.
    """
    query = select(audit_entries).where(
        audit_entries.c.owner == owner, audit_entries.c.created_at >= start, audit_entries.c.created_at < end
    )
    if resource is not None:
        query = query.where(audit_entries.c.event.startswith(f"{resource}_", autoescape=True))
    return queries.many(db, query.order_by(audit_entries.c.entry_id), AuditEntry)


def forget(db: Connection, before: datetime) -> None:
    db.execute(delete(audit_entries).where(audit_entries.c.created_at < before))
