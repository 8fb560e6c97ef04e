"""Types and tables of the log's database."""

from __future__ import annotations

import asyncio
from datetime import timedelta, timezone

from eztinker.oplog import operations
from eztinker.oplog.rows import Operation
from eztinker.oplog.store import Store
from eztinker.types import OperationKind
from tests.unit.oplog.log_entries import NOW


def test_times_keep_their_instant_and_come_back_in_utc(store: Store):
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    asyncio.run(store.write(lambda db: operations.append(db, Operation(
        op_id="op", owner="local", lane="run", seq_id=None, kind=OperationKind.SAMPLE, created_at=tokyo))))  # fmt: skip
    row = asyncio.run(store.read(lambda db: operations.get(db, "op")))
    assert row is not None
    assert (row.created_at, row.created_at.utcoffset()) == (NOW, timedelta(0))
