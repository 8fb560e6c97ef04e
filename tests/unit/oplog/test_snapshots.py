"""Snapshots of a model, and the operations that are repeated on top of one."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from eztinker.oplog import operations, snapshots
from eztinker.oplog.store import Store
from tests.unit.oplog.log_entries import finish, operation, snapshot, with_run


def test_two_snapshots_are_kept_and_the_operations_since_the_older_one(store: Store):
    def scenario(db: Connection) -> tuple[list[int], list[int | None]]:
        with_run(db)
        for seq_id in range(10):
            operations.append(db, operation(f"op-{seq_id}", seq_id=seq_id), bytes([seq_id]))
            finish(db, f"op-{seq_id}", keeps_payload=True)
            if seq_id % 3 == 0:
                snapshots.add(db, snapshot(seq_id))
        kept = [each.seq_id for each in snapshots.of_model(db, "run")]
        return kept, [row.seq_id for row in operations.to_replay(db, "run")]

    kept, replayed = asyncio.run(store.write(scenario))
    assert kept == [9, 6]
    assert replayed == [7, 8, 9]
