"""Queries on payloads: the commands of operations, stored once by content for as long as recovery may need them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, exists, insert, select, update

from eztinker.oplog import queries
from eztinker.oplog.schema import operations, payloads

_IS_KEPT = queries.Prepared(select(exists().where(payloads.c.digest == bindparam("digest"))))
_KEEP = queries.Prepared(insert(payloads))


def keep(db: Connection, content: bytes) -> str:
    """Store `content` if it is new; returns its digest."""
    digest = digest_of(content)
    (is_kept,) = _IS_KEPT.run(db, {"digest": digest}).fetchone()
    if not is_kept:
        _KEEP.run(db, {"digest": digest, "content": content})
    return digest


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def contents(db: Connection, digests: Sequence[str]) -> dict[str, bytes]:
    """Payloads by digest; damaged and missing ones are left out."""
    rows = db.execute(select(payloads.c.digest, payloads.c.content).where(payloads.c.digest.in_(digests)))
    return {row.digest: row.content for row in rows if digest_of(row.content) == row.digest}


def release_covered(db: Connection, lane: str, seq_id: int) -> None:
    """Release the payloads of a lane's operations up to `seq_id`, and drop payloads that nobody uses."""
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
