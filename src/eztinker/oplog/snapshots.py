"""Queries on snapshots, from which the runs of a dead engine are recovered."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from eztinker.oplog import payloads, queries
from eztinker.oplog.rows import Snapshot
from eztinker.oplog.schema import snapshots

NUM_KEPT = 2
"""Snapshots kept per run: if the newest is damaged, recovery takes the one before it and replays more operations."""


def add(db: Connection, snapshot: Snapshot) -> None:
    """Store a snapshot, and drop surplus older ones and the payloads that the oldest remaining one covers."""
    queries.add(db, snapshots, snapshot)
    kept = of_model(db, snapshot.model_id)[:NUM_KEPT]
    kept_ids = [each.snapshot_id for each in kept]
    db.execute(
        delete(snapshots).where(
            snapshots.c.model_id == snapshot.model_id,
            snapshots.c.snapshot_id.not_in(kept_ids),
        )
    )
    if len(kept) == NUM_KEPT:
        payloads.release_covered(db, snapshot.model_id, kept[-1].seq_id)


def of_model(db: Connection, model_id: str) -> list[Snapshot]:
    """Snapshots of a model, newest first."""
    query = select(snapshots).where(snapshots.c.model_id == model_id).order_by(snapshots.c.seq_id.desc())
    return queries.many(db, query, Snapshot)


def forget_model(db: Connection, model_id: str) -> None:
    """Drop the snapshots and payloads of a model that has ended and will not be recovered."""
    db.execute(delete(snapshots).where(snapshots.c.model_id == model_id))
    payloads.release_all(db, model_id)


def known_ids(db: Connection) -> set[str]:
    return set(db.execute(select(snapshots.c.snapshot_id)).scalars())
