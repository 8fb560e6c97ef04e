"""Queries on operations: an accepted request, and its outcome once there."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import msgspec
from sqlalchemy import Connection, bindparam, func, select, update

from eztinker.oplog import epochs, payloads, queries
from eztinker.oplog.rows import Completion, Failure, Operation, OperationStatus
from eztinker.oplog.schema import operations

OPTIM_STEP = "optim_step"
SAVE_WEIGHTS = "save_weights"
LAST = 2**62
"""Behind every number that a client can give."""


def append(db: Connection, operation: Operation, payload: bytes | None = None) -> Operation:
    """Store `operation`, or return the one that has its lane and number already: a repeat is the same operation."""
    if operation.seq_id is not None:
        query = select(operations).where(operations.c.lane == operation.lane, operations.c.seq_id == operation.seq_id)
        if (existing := queries.one(db, query, Operation)) is not None:
            return existing
    if payload is not None:
        operation = msgspec.structs.replace(operation, payload=payloads.keep(db, payload))
    queries.add(db, operations, operation)
    return operation


def get(db: Connection, op_id: str) -> Operation | None:
    return queries.one(db, select(operations).where(operations.c.op_id == op_id), Operation)


def finish(
    db: Connection, op_id: str, *, epoch: int, media_type: str, result: bytes, keeps_payload: bool, now: datetime
) -> None:
    """
    Raises:
        StaleEpoch: the engine that gave the result has been replaced.
    """
    epochs.require_newest(db, epoch)
    outcome = {"status": OperationStatus.DONE, "media_type": media_type, "result": result, "epoch": epoch}
    db.execute(_pending(op_id).values(**outcome, **_payload(keeps_payload), finished_at=now))


def fail(
    db: Connection,
    op_id: str,
    failure: Failure,
    *,
    now: datetime,
    epoch: int | None = None,
    keeps_payload: bool = False,
) -> None:
    """End an operation in `failure`; `epoch` is that of the engine that found it, None if the server did.

    Raises:
        StaleEpoch: that engine has been replaced.
    """
    if epoch is not None:
        epochs.require_newest(db, epoch)
    outcome = {
        "status": OperationStatus.FAILED,
        "error_category": failure.category,
        "error_code": failure.code,
        "error_message": failure.message,
        "epoch": epoch,
    }
    db.execute(_pending(op_id).values(**outcome, **_payload(keeps_payload), finished_at=now))


def lose(db: Connection, op_id: str, now: datetime) -> None:
    db.execute(_pending(op_id).values(status=OperationStatus.LOST, finished_at=now))


def pending(db: Connection) -> list[Operation]:
    """In the order of each lane."""
    query = select(operations).where(operations.c.status == OperationStatus.PENDING).order_by(operations.c.seq_id)
    return queries.many(db, query, Operation)


def to_replay(db: Connection, lane: str) -> list[Operation]:
    """Settled operations of a run that changed its state and may have to be run again, in order, without results."""
    columns = [column for column in operations.c if column.name != "result"]
    query = select(*columns).where(
        operations.c.lane == lane,
        operations.c.payload.is_not(None),
        operations.c.status != OperationStatus.PENDING,
    )
    return queries.many(db, query.order_by(operations.c.seq_id), Operation)


def last_run(db: Connection, lane: str) -> int:
    """The highest number of a lane that an engine has run; its creation is number 0. Those refused do not count."""
    query = select(func.max(operations.c.seq_id)).where(
        operations.c.lane == lane, operations.c.plan.is_not(None), operations.c.status != OperationStatus.PENDING
    )
    return db.execute(query).scalar_one() or 0


def has_unsaved_steps(db: Connection, lane: str) -> bool:
    """Whether a run has made, or is yet to make, a step that is in no checkpoint. The server's own save is the last."""
    saved = select(func.max(func.coalesce(operations.c.seq_id, LAST))).where(
        operations.c.lane == lane, operations.c.kind == SAVE_WEIGHTS, operations.c.status == OperationStatus.DONE
    )
    unsaved = select(func.count()).where(
        operations.c.lane == lane,
        operations.c.kind == OPTIM_STEP,
        operations.c.status.in_((OperationStatus.DONE, OperationStatus.PENDING)),
        operations.c.seq_id > func.coalesce(saved.scalar_subquery(), 0),
    )
    return db.execute(unsaved).scalar_one() > 0


def own_saves(db: Connection, lane: str) -> list[Operation]:
    """The saves of a run that the server began on its own, which have no number; oldest first."""
    query = select(operations).where(
        operations.c.lane == lane, operations.c.kind == SAVE_WEIGHTS, operations.c.seq_id.is_(None)
    )
    return queries.many(db, query.order_by(operations.c.created_at), Operation)


def completions(db: Connection, lane: str, *, after: int, seq_ids: range, limit: int) -> list[Completion]:
    """The first outcomes behind place `after` in a lane, of the operations with these numbers, in order."""
    query = (
        select(
            operations.c.op_id,
            operations.c.completion,
            operations.c.status,
            func.length(operations.c.result).label("num_bytes"),
        )
        .where(
            operations.c.lane == lane,
            operations.c.completion > after,
            operations.c.seq_id.between(seq_ids.start, seq_ids.stop - 1),
        )
        .order_by(operations.c.completion)
        .limit(limit)
    )
    return queries.many(db, query, Completion)


def drop_fetched(db: Connection, lane: str, op_ids: Collection[str]) -> None:
    """Drop the results of these operations of a lane, which their client has."""
    named = update(operations).where(
        operations.c.op_id == bindparam("fetched"),
        operations.c.lane == lane,
        operations.c.status == OperationStatus.DONE,
    )
    db.execute(named.values(status=OperationStatus.EXPIRED, result=None), [{"fetched": op_id} for op_id in op_ids])


def expire_results(db: Connection, finished_before: datetime) -> None:
    """Drop the results of operations that were done before that time."""
    db.execute(
        update(operations)
        .where(operations.c.status == OperationStatus.DONE, operations.c.finished_at < finished_before)
        .values(status=OperationStatus.EXPIRED, result=None)
    )


def _pending(op_id: str):
    """An outcome is written once, and takes the next place in its lane."""
    others = operations.alias()
    place = select(func.coalesce(func.max(others.c.completion), 0) + 1).where(others.c.lane == operations.c.lane)
    pending = update(operations).where(operations.c.op_id == op_id, operations.c.status == OperationStatus.PENDING)
    return pending.values(completion=place.scalar_subquery())


def _payload(is_kept: bool) -> dict[str, None]:
    return {} if is_kept else {"payload": None}
