"""Queries on operations: an accepted request, and its outcome once there."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, bindparam, func, select, update

from eztinker.oplog import queries
from eztinker.oplog.rows import Completion, Failure, Operation, OperationStatus
from eztinker.oplog.schema import operations


def append(db: Connection, operation: Operation) -> Operation:
    """Store `operation`, or return the one that has its lane and number already: a repeat is the same operation."""
    if operation.seq_id is not None:
        query = select(operations).where(operations.c.lane == operation.lane, operations.c.seq_id == operation.seq_id)
        if (existing := queries.one(db, query, Operation)) is not None:
            return existing
    queries.add(db, operations, operation)
    return operation


def get(db: Connection, op_id: str) -> Operation | None:
    return queries.one(db, select(operations).where(operations.c.op_id == op_id), Operation)


def finish(db: Connection, op_id: str, *, media_type: str, result: bytes, now: datetime) -> None:
    db.execute(
        _pending(op_id).values(status=OperationStatus.DONE, media_type=media_type, result=result, finished_at=now)
    )


def fail(db: Connection, op_id: str, failure: Failure, now: datetime) -> None:
    db.execute(
        _pending(op_id).values(
            status=OperationStatus.FAILED,
            error_category=failure.category,
            error_code=failure.code,
            error_message=failure.message,
            finished_at=now,
        )
    )


def lose(db: Connection, op_id: str, now: datetime) -> None:
    db.execute(_pending(op_id).values(status=OperationStatus.LOST, finished_at=now))


def pending(db: Connection) -> list[Operation]:
    return queries.many(db, select(operations).where(operations.c.status == OperationStatus.PENDING), Operation)


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
