"""Queries on uploads of adapters, which last until they expire, finished or not."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from eztinker.oplog import queries
from eztinker.oplog.rows import Upload
from eztinker.oplog.schema import uploads


def add(db: Connection, upload: Upload) -> None:
    queries.add(db, uploads, upload)


def get(db: Connection, upload_id: str) -> Upload | None:
    return queries.one(db, select(uploads).where(uploads.c.upload_id == upload_id), Upload)


def unfinished(db: Connection, owner: str) -> list[Upload]:
    """The owner's uploads that wait for files, in the order of their expiry."""
    query = select(uploads).where(uploads.c.owner == owner, uploads.c.tinker_path.is_(None))
    return queries.many(db, query.order_by(uploads.c.expires_at), Upload)


def finish(db: Connection, upload_id: str, tinker_path: str) -> None:
    db.execute(update(uploads).where(uploads.c.upload_id == upload_id).values(tinker_path=tinker_path))


def expire(db: Connection, now: datetime) -> None:
    db.execute(delete(uploads).where(uploads.c.expires_at <= now))


def waiting_ids(db: Connection) -> set[str]:
    """Ids of uploads that wait for files; any other directory was left by an upload that has ended."""
    return set(db.execute(select(uploads.c.upload_id).where(uploads.c.tinker_path.is_(None))).scalars())
