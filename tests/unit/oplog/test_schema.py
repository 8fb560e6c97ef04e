"""Types and tables of the log's database."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError

from eztinker.oplog import operations, queries
from eztinker.oplog.rows import OperationRow
from eztinker.oplog.schema import UtcDateTime, checkpoints, metadata
from eztinker.oplog.store import Store
from eztinker.types import OperationKind
from tests.unit.oplog.log_entries import NOW, checkpoint, with_run


def test_times_keep_their_instant_and_come_back_in_utc(store: Store):
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    asyncio.run(store.write(lambda db: operations.append(db, OperationRow(
        op_id="op", owner="local", lane="run", seq_id=None, kind=OperationKind.SAMPLE, created_at=tokyo))))  # fmt: skip
    row = asyncio.run(store.read(lambda db: operations.get(db, "op")))
    assert row is not None
    assert (row.created_at, row.created_at.utcoffset()) == (NOW, timedelta(0))


def test_a_time_without_a_zone_is_not_stored():
    with pytest.raises(ValueError, match="needs a zone"):
        UtcDateTime().process_bind_param(datetime(2026, 1, 2), sqlite.dialect())


@pytest.mark.parametrize(
    ("moment", "stored"),
    [
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), datetime.min),
        (datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-12))), datetime.max),
    ],
    ids=["first", "last"],
)
def test_a_moment_that_utc_has_no_day_for_becomes_the_nearest(moment: datetime, stored: datetime):
    """Queries compare with it: all stored times are later than the first and earlier than the last."""
    assert UtcDateTime().process_bind_param(moment, sqlite.dialect()) == stored


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=str)
def test_every_row_can_be_told_whose_it_is(table: Table):
    """A row has an owner, or belongs to a row that has one, or is nobody's: equal work, and engines."""
    belongs = {key.column.table.name for key in table.foreign_keys}
    assert "owner" in table.columns or belongs or table.name in {"payloads", "epochs"}


def test_two_live_checkpoints_of_one_name_are_refused_by_the_database_itself(store: Store):
    async def save_twice() -> None:
        await store.write(with_run)
        await store.write(lambda db: queries.add(db, checkpoints, checkpoint("first", "a")))
        with pytest.raises(IntegrityError, match="UNIQUE"):
            await store.write(lambda db: queries.add(db, checkpoints, checkpoint("second", "a")))
        await store.write(lambda db: queries.add(db, checkpoints, checkpoint("removed", "a", removed_at=NOW)))

    asyncio.run(save_twice())
