"""Queries on payloads: what operations do, stored once for equal work, for as long as recovery may need it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import Connection, delete, exists, insert, select, update

from eztinker.oplog.schema import operations, payloads


def keep(db: Connection, content: bytes) -> str:
    """Store `content` if it is new; gives its digest."""
    digest = hashlib.sha256(content).hexdigest()
    if not db.execute(select(exists().where(payloads.c.digest == digest))).scalar_one():
        db.execute(insert(payloads).values(digest=digest, content=content))
    return digest


def contents(db: Connection, digests: Sequence[str]) -> dict[str, bytes]:
    rows = db.execute(select(payloads.c.digest, payloads.c.content).where(payloads.c.digest.in_(digests)))
    return {row.digest: row.content for row in rows}


def held_by(db: Connection, kind: str) -> list[bytes]:
    """What the operations of one kind do that recovery may still have to run."""
    query = select(payloads.c.content).join(operations, operations.c.payload == payloads.c.digest)
    return list(db.execute(query.where(operations.c.kind == kind)).scalars())


def release_covered(db: Connection, lane: str, seq_id: int) -> None:
    """The operations of a lane up to `seq_id` need no payload any more."""
    db.execute(
        update(operations)
        .where(operations.c.lane == lane, operations.c.seq_id <= seq_id, operations.c.payload.is_not(None))
        .values(payload=None)
    )
    drop_unused(db)


def release_all(db: Connection, lane: str) -> None:
    db.execute(update(operations).where(operations.c.lane == lane).values(payload=None))
    drop_unused(db)


def drop_unused(db: Connection) -> None:
    db.execute(delete(payloads).where(~exists().where(operations.c.payload == payloads.c.digest)))
