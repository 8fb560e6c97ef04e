"""Queries on operations: accepted requests and, once they are settled, their outcomes."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, case, func, insert, select, update

from eztinker.oplog import epochs, payloads, queries
from eztinker.oplog.rows import Failure, OperationRow, OperationStatus, SettledOperation, checksum
from eztinker.oplog.schema import operations
from eztinker.types import OperationKind

LAST = 2**62
"""A sequence number greater than any that a client can give."""

_WITHOUT_RESULT = {"status": OperationStatus.EXPIRED, "result": None, "result_checksum": None}
_BY_ID = select(operations).where(operations.c.op_id == bindparam("op_id"))
_BY_NUMBER = queries.Prepared(
    select(operations.c.op_id).where(operations.c.lane == bindparam("lane"), operations.c.seq_id == bindparam("seq_id"))
)
_APPEND = queries.Prepared(insert(operations))
_others = operations.alias()
_SETTLE = queries.Prepared(
    update(operations)
    .where(operations.c.op_id == bindparam("settled"), operations.c.status == OperationStatus.PENDING)
    .values(
        completion=select(func.coalesce(func.max(_others.c.completion), 0) + 1)
        .where(_others.c.lane == operations.c.lane)
        .scalar_subquery(),
        plan=case((operations.c.plan.is_not(None), b"")),
        plan_checksum=None,
    )
)
"""Stores the outcome of a pending operation, which takes the next completion number of its lane; clears the plan."""


def append(db: Connection, operation: OperationRow, payload: bytes | None = None) -> OperationRow:
    """Store `operation`, or return the stored one with the same lane and number: a retry is the same operation."""
    if operation.seq_id is not None:
        number = {"lane": operation.lane, "seq_id": operation.seq_id}
        if (existing := _BY_NUMBER.run(db, number).fetchone()) is not None:
            first = get(db, existing[0])
            assert first is not None
            return first
    if payload is not None:
        operation = msgspec.structs.replace(operation, payload=payloads.keep(db, payload))
    if operation.plan is not None:
        operation = msgspec.structs.replace(operation, plan_checksum=checksum(operation.plan))
    _APPEND.run(db, msgspec.structs.asdict(operation))
    return operation


def get(db: Connection, op_id: str) -> OperationRow | None:
    return queries.one(db, _BY_ID, OperationRow, {"op_id": op_id})


def finish(
    db: Connection, op_id: str, *, epoch: int, media_type: str, result: bytes, keeps_payload: bool, now: datetime
) -> None:
    """Store the result of an operation.

    Args:
        epoch: epoch of the engine that computed the result.
        keeps_payload: whether recovery may have to run the operation again.
    Raises:
        StaleEpoch: that engine has been replaced.
    """
    epochs.require_newest(db, epoch)
    outcome = {
        "status": OperationStatus.DONE,
        "media_type": media_type,
        "result": result,
        "result_checksum": checksum(result),
        "epoch": epoch,
    }
    _settle(db, op_id, now, **outcome, **_payload(keeps_payload))


def fail(
    db: Connection,
    op_id: str,
    failure: Failure,
    *,
    now: datetime,
    epoch: int | None = None,
    keeps_payload: bool = False,
) -> None:
    """End an operation in `failure`.

    Args:
        epoch: epoch of the engine in which the operation failed; None if it failed in the server.
        keeps_payload: whether recovery may have to run the operation again.
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
    _settle(db, op_id, now, **outcome, **_payload(keeps_payload))


def mark_lost(db: Connection, op_id: str, now: datetime) -> None:
    _settle(db, op_id, now, status=OperationStatus.LOST)


def pending(db: Connection) -> list[OperationRow]:
    """All operations without an outcome, in the order of each lane."""
    query = select(operations).where(operations.c.status == OperationStatus.PENDING).order_by(operations.c.seq_id)
    return queries.many(db, query, OperationRow)


def to_replay(db: Connection, lane: str) -> list[OperationRow]:
    """Settled operations of a lane that recovery may have to run again, in order and without their results."""
    columns = [column for column in operations.c if column.name != "result"]
    query = select(*columns).where(
        operations.c.lane == lane,
        operations.c.payload.is_not(None),
        operations.c.status != OperationStatus.PENDING,
    )
    return queries.many(db, query.order_by(operations.c.seq_id), OperationRow)


def kept_payloads(db: Connection, kind: OperationKind) -> list[str]:
    """Digests of the payloads of operations of one kind that are pending or that recovery may have to run again."""
    query = select(operations.c.payload).where(operations.c.kind == kind, operations.c.payload.is_not(None))
    return list(db.execute(query.distinct()).scalars())


def last_run(db: Connection, lane: str) -> int:
    """Highest number in a lane that an engine has run, refused ones excluded; the creation of a model is number 0."""
    query = select(func.max(operations.c.seq_id)).where(
        operations.c.lane == lane, operations.c.plan.is_not(None), operations.c.status != OperationStatus.PENDING
    )
    return db.execute(query).scalar_one() or 0


def has_unsaved_steps(db: Connection, lane: str) -> bool:
    """Whether a run has a done or pending step that is in no checkpoint; the server's own saves count as the last."""
    saved = select(func.max(func.coalesce(operations.c.seq_id, LAST))).where(
        operations.c.lane == lane,
        operations.c.kind == OperationKind.SAVE_WEIGHTS,
        operations.c.status == OperationStatus.DONE,
    )
    unsaved = select(func.count()).where(
        operations.c.lane == lane,
        operations.c.kind == OperationKind.OPTIM_STEP,
        operations.c.status.in_((OperationStatus.DONE, OperationStatus.PENDING)),
        operations.c.seq_id > func.coalesce(saved.scalar_subquery(), 0),
    )
    return db.execute(unsaved).scalar_one() > 0


def own_saves(db: Connection, lane: str) -> list[OperationRow]:
    """Saves of a run that the server started on its own, which have no number; oldest first."""
    query = select(operations).where(
        operations.c.lane == lane, operations.c.kind == OperationKind.SAVE_WEIGHTS, operations.c.seq_id.is_(None)
    )
    return queries.many(db, query.order_by(operations.c.created_at), OperationRow)


def completions(db: Connection, lane: str, *, after: int, seq_ids: range, limit: int) -> list[SettledOperation]:
    """Outcomes in a lane with completion numbers above `after`, in order.

    Args:
        seq_ids: numbers of the operations to consider.
        limit: most outcomes to return.
    """
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
    return queries.many(db, query, SettledOperation)


def drop_fetched(db: Connection, lane: str, op_ids: Collection[str]) -> None:
    """Drop the results of these operations of a lane, which their client has fetched."""
    named = update(operations).where(
        operations.c.op_id == bindparam("fetched"),
        operations.c.lane == lane,
        operations.c.status == OperationStatus.DONE,
    )
    db.execute(named.values(**_WITHOUT_RESULT), [{"fetched": op_id} for op_id in op_ids])


def drop_results(db: Connection, op_ids: Collection[str]) -> None:
    """Drop the results of these operations."""
    if op_ids:
        named = update(operations).where(
            operations.c.op_id == bindparam("named"), operations.c.status == OperationStatus.DONE
        )
        db.execute(named.values(**_WITHOUT_RESULT), [{"named": op_id} for op_id in op_ids])


def drop_oldest_results(db: Connection, max_bytes: int) -> int:
    """Drop the oldest results until the rest take at most `max_bytes`; returns the number dropped."""
    newer_bytes = func.sum(func.length(operations.c.result)).over(
        order_by=(operations.c.finished_at.desc(), operations.c.op_id)
    )
    done = select(operations.c.op_id, newer_bytes.label("newer_bytes")).where(
        operations.c.status == OperationStatus.DONE
    )
    ranked = done.subquery()
    surplus = db.execute(select(ranked.c.op_id).where(ranked.c.newer_bytes > max_bytes)).scalars().all()
    drop_results(db, surplus)
    return len(surplus)


def expire_results(db: Connection, finished_before: datetime) -> None:
    """Drop the results of operations that finished before `finished_before`."""
    db.execute(
        update(operations)
        .where(operations.c.status == OperationStatus.DONE, operations.c.finished_at < finished_before)
        .values(**_WITHOUT_RESULT)
    )


def _settle(db: Connection, op_id: str, now: datetime, **outcome: Any) -> None:
    _SETTLE.run(db, {"settled": op_id, "finished_at": now, **outcome})


def _payload(is_kept: bool) -> dict[str, None]:
    return {} if is_kept else {"payload": None}
