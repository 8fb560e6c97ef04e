"""Queries on recorded samples: prompts and completions that training requests may name as their source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, Select, bindparam, delete, func, or_, select, update

from eztinker.oplog import queries
from eztinker.oplog.rows import RecordedSample, RecordedSequence, SessionStatus
from eztinker.oplog.schema import recorded_samples, recorded_sequences, sessions

T = TypeVar("T")

_MAX_NAMED = 500
"""Most ids in one statement, which takes a limited number of parameters."""

_op_id = recorded_samples.c.op_id
# One by one: a list of pairs would keep SQLite from using the index.
_SEQUENCE = queries.Prepared(
    select(recorded_sequences).where(
        recorded_sequences.c.op_id == bindparam("request"), recorded_sequences.c.place == bindparam("nth")
    )
)
_SEQUENCE_COLUMNS = [column.name for column in recorded_sequences.columns]


def add(db: Connection, sample: RecordedSample, sequences: Sequence[RecordedSequence]) -> None:
    queries.add(db, recorded_samples, sample)
    queries.add_many(db, recorded_sequences, sequences)


def num_prompt_bytes(db: Connection, owner: str, session_id: str, op_ids: Iterable[str]) -> int:
    """Total size of the prompts of these samples, not counting samples that are gone or of another session or owner."""
    query = select(func.coalesce(func.sum(func.length(recorded_samples.c.prompt)), 0)).where(
        recorded_samples.c.owner == owner, recorded_samples.c.session_id == session_id
    )
    return sum(db.execute(query.where(_op_id.in_(ids))).scalar_one() for ids in _batched(op_ids))


def samples(db: Connection, owner: str, session_id: str, op_ids: Iterable[str]) -> list[RecordedSample]:
    """Records of these samples, without those that are gone or of another session or owner."""
    query = select(recorded_samples).where(
        recorded_samples.c.owner == owner, recorded_samples.c.session_id == session_id
    )
    return [
        found for ids in _batched(op_ids) for found in queries.many(db, query.where(_op_id.in_(ids)), RecordedSample)
    ]


def sequences(db: Connection, named: Iterable[tuple[str, int]]) -> Iterator[RecordedSequence]:
    """Completions by request id and index, each read as it is consumed; missing ones are left out."""
    for op_id, place in named:
        if (row := _SEQUENCE.run(db, {"request": op_id, "nth": place}).fetchone()) is not None:
            yield RecordedSequence(**dict(zip(_SEQUENCE_COLUMNS, row, strict=True)))


def renew(db: Connection, op_ids: Iterable[str], now: datetime) -> None:
    """Set the time at which these samples were last used."""
    for ids in _batched(op_ids):
        db.execute(update(recorded_samples).where(_op_id.in_(ids)).values(used_at=now))


def forget_unused(db: Connection, used_before: datetime) -> None:
    """Drop samples last used before `used_before`, and all samples of sessions that have ended."""
    is_over = recorded_samples.c.session_id.in_(
        select(sessions.c.session_id).where(sessions.c.status != SessionStatus.ACTIVE)
    )
    _drop(db, select(_op_id).where(or_(recorded_samples.c.used_at < used_before, is_over)))


def forget_surplus(db: Connection, max_bytes: int) -> list[str]:
    """Drop each owner's least recently used samples until the rest take at most `max_bytes`.

    Returns:
        The owners who lost samples.
    """
    newer_bytes = func.sum(recorded_samples.c.num_bytes).over(
        partition_by=recorded_samples.c.owner, order_by=(recorded_samples.c.used_at.desc(), _op_id)
    )
    total = func.sum(recorded_samples.c.num_bytes)
    over = select(recorded_samples.c.owner).group_by(recorded_samples.c.owner).having(total > max_bytes)
    owners = list(db.execute(over).scalars())
    if owners:
        ranked = select(_op_id, newer_bytes.label("newer_bytes")).where(recorded_samples.c.owner.in_(owners)).subquery()
        _drop(db, select(ranked.c.op_id).where(ranked.c.newer_bytes > max_bytes))
    return owners


def _drop(db: Connection, chosen: Select[tuple[str]]) -> None:
    for ids in _batched(db.execute(chosen).scalars()):
        db.execute(delete(recorded_sequences).where(recorded_sequences.c.op_id.in_(ids)))
        db.execute(delete(recorded_samples).where(_op_id.in_(ids)))


def _batched(named: Iterable[T]) -> Iterator[list[T]]:
    """Lists of at most as many ids as one statement may have."""
    rest = iter(named)
    while batch := list(islice(rest, _MAX_NAMED)):
        yield batch
