"""Payloads of operations: equal ones are kept once, and no longer than they are needed."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from eztinker.oplog import operations, payloads
from eztinker.oplog.store import Store
from tests.unit.oplog.log_entries import finish, operation


def test_equal_work_is_kept_once_and_no_longer_than_some_operation_may_need_it(store: Store):
    def kept(db: Connection) -> dict[str, bytes]:
        rows = [operations.get(db, op_id) for op_id in ("one", "two", "three")]
        return payloads.contents(db, [row.payload for row in rows if row is not None and row.payload is not None])

    def scenario(db: Connection) -> list[list[bytes]]:
        for seq_id, op_id in enumerate(("one", "two", "three")):
            operations.append(db, operation(op_id, seq_id=seq_id), b"same" if seq_id < 2 else b"other")
        seen = [sorted(kept(db).values())]
        finish(db, "one", keeps_payload=True)
        finish(db, "two", keeps_payload=False)
        payloads.drop_unused(db)
        seen.append(sorted(kept(db).values()))
        payloads.release_covered(db, "run", 1)
        seen.append(sorted(kept(db).values()))
        return seen

    seen = asyncio.run(store.write(scenario))
    assert seen == [[b"other", b"same"], [b"other", b"same"], [b"other"]]


def test_a_payload_with_a_flipped_bit_is_not_given_out(store: Store):
    def damage(db: Connection) -> tuple[dict[str, bytes], dict[str, bytes]]:
        digests = [payloads.keep(db, content) for content in (b"whole", b"other")]
        before = payloads.contents(db, digests)
        db.exec_driver_sql("UPDATE payloads SET content = ? WHERE digest = ?", (b"othes", digests[1]))
        return before, payloads.contents(db, digests)

    before, after = asyncio.run(store.write(damage))
    assert sorted(before.values()) == [b"other", b"whole"]
    assert list(after.values()) == [b"whole"]
