"""Queries on epochs, the fencing tokens of engines: one per engine process that ever worked on this log.

Every outcome names its engine's epoch and is refused once a newer epoch has begun: an engine that was suspended,
replaced and woke up again changes nothing.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from eztinker.errors import StaleEpoch
from eztinker.oplog import queries
from eztinker.oplog.schema import epochs

_NEWEST = queries.Prepared(select(func.coalesce(func.max(epochs.c.epoch), 0)))


def begin(db: Connection, now: datetime) -> int:
    """Begin an epoch, which ends all older ones; returns its number."""
    epoch = _newest(db) + 1
    db.execute(insert(epochs).values(epoch=epoch, started_at=now))
    return epoch


def require_newest(db: Connection, epoch: int) -> None:
    """Require that no newer epoch has begun.

    Raises:
        StaleEpoch: another engine has been started since.
    """
    if epoch != (newest := _newest(db)):
        raise StaleEpoch(f"Engine {epoch} was replaced by engine {newest}; what it did is not taken")


def _newest(db: Connection) -> int:
    return _NEWEST.run(db, {}).fetchone()[0]
