"""Queries on the usage ledger: one row per hour, run and kind of use."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Connection, bindparam, delete, select, update

from eztinker.oplog import queries
from eztinker.oplog.rows import Usage
from eztinker.oplog.schema import usage

_ADD = queries.Prepared(
    update(usage)
    .where(
        usage.c.owner == bindparam("of_owner"),
        usage.c.hour == bindparam("of_hour"),
        usage.c.session_id == bindparam("of_session_id"),
        usage.c.model_id.is_not_distinct_from(bindparam("of_model_id")),
        usage.c.base_model == bindparam("of_base_model"),
        usage.c.kind == bindparam("of_kind"),
    )
    .values(amount=usage.c.amount + bindparam("more"))
)


def add(db: Connection, *uses: Usage) -> None:
    """Add each amount to the ledger row of its hour, run and kind."""
    for used in uses:
        _add(db, used)


def between(db: Connection, owner: str, start: datetime, end: datetime) -> list[Usage]:
    """The owner's usage in the hours from `start` up to but not at `end`, by hour, largest amounts first."""
    query = select(usage).where(usage.c.owner == owner, usage.c.hour >= start, usage.c.hour < end)
    return queries.many(db, query.order_by(usage.c.hour, usage.c.amount.desc(), usage.c.usage_id), Usage)


def forget(db: Connection, before: datetime) -> None:
    db.execute(delete(usage).where(usage.c.hour < before))


def _add(db: Connection, used: Usage) -> None:
    same = {f"of_{name}": value for name, value in msgspec.structs.asdict(used).items() if name != "amount"}
    added = _ADD.run(db, {"more": used.amount, **same})
    if added.rowcount == 0:
        queries.add(db, usage, used)
