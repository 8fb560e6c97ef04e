"""Operations of the log: kept once, finished once, by the engine that is in charge."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection

from eztinker.errors import StaleEpoch
from eztinker.oplog import epochs, operations
from eztinker.oplog.rows import Failure, OperationRow, OperationStatus
from eztinker.oplog.store import Store
from tests.unit.oplog.log_entries import NOW, finish, operation


def test_a_repeat_is_the_same_operation_whatever_its_body(store: Store):
    def append(op_id: str, lane: str = "run") -> str:
        new = operation(op_id, lane=lane, seq_id=1)
        return asyncio.run(store.write(lambda db: operations.append(db, new))).op_id

    assert append("first") == "first"
    assert append("second") == "first"
    assert append("third", lane="other") == "third"


def test_outcomes_are_numbered_in_their_lane_in_the_order_in_which_they_come(store: Store):
    def settle(db: Connection) -> None:
        for lane, seq_id in (("a", 0), ("a", 1), ("a", 2), ("a", 10**18), ("b", 0)):
            operations.append(db, operation(f"{lane}{seq_id}", lane=lane, seq_id=seq_id))
        finish(db, "a1", b"12345")
        finish(db, "b0", b"1")
        operations.mark_lost(db, "a0", NOW)
        finish(db, f"a{10**18}", b"1")

    def completions(after: int, seq_ids: range = range(10**9)) -> list[tuple[str, int, str, int | None]]:
        found = asyncio.run(
            store.read(lambda db: operations.completions(db, "a", after=after, seq_ids=seq_ids, limit=9))
        )
        return [(row.op_id, row.completion, row.status, row.num_bytes) for row in found]

    asyncio.run(store.write(settle))
    assert completions(0) == [("a1", 1, "done", 5), ("a0", 2, "lost", None)]
    assert completions(1) == [("a0", 2, "lost", None)]
    assert completions(2) == []
    assert completions(0, range(10**18, 10**18 + 10**9)) == [(f"a{10**18}", 3, "done", 1)]


def test_an_outcome_is_written_once(store: Store):
    def outcome(db: Connection) -> OperationRow | None:
        operations.append(db, operation("op"))
        finish(db, "op")
        operations.fail(db, "op", Failure(category="server", code="late", message="late"), now=NOW)
        return operations.get(db, "op")

    row = asyncio.run(store.write(outcome))
    assert row is not None
    assert (row.status, row.result, row.error_code) == (OperationStatus.DONE, b"{}", None)


def test_results_are_served_again_after_a_restart_until_they_expire(path: Path):
    def run(db: Connection) -> None:
        operations.append(db, operation("op"))
        finish(db, "op")

    first = Store(path)
    asyncio.run(first.write(run))
    first.close()
    second = Store(path)
    row = asyncio.run(second.read(lambda db: operations.get(db, "op")))
    assert row is not None
    assert (row.result, row.finished_at) == (b"{}", NOW)
    asyncio.run(second.write(lambda db: operations.expire_results(db, NOW + timedelta(seconds=1))))
    row = asyncio.run(second.read(lambda db: operations.get(db, "op")))
    second.close()
    assert row is not None
    assert (row.status, row.result) == (OperationStatus.EXPIRED, None)


def test_the_outcomes_of_five_hundred_engines_that_were_replaced_are_refused(store: Store):
    """An engine that was stopped for so long that another took over, and then woke up."""

    def outlive_an_engine(db: Connection) -> None:
        stale = epochs.begin(db, NOW)
        newest = epochs.begin(db, NOW)
        op_id = f"op-{stale}"
        operations.append(db, operation(op_id))
        failure = Failure(category="server", code="late", message="late")
        with pytest.raises(StaleEpoch):
            operations.finish(
                db, op_id, epoch=stale, media_type="text/plain", result=b"late", keeps_payload=True, now=NOW
            )
        with pytest.raises(StaleEpoch):
            operations.fail(db, op_id, failure, now=NOW, epoch=stale)
        row = operations.get(db, op_id)
        assert row is not None
        assert row.status is OperationStatus.PENDING
        operations.finish(db, op_id, epoch=newest, media_type="text/plain", result=b"new", keeps_payload=True, now=NOW)
        row = operations.get(db, op_id)
        assert row is not None
        assert (row.result, row.epoch) == (b"new", newest)

    for _ in range(500):
        asyncio.run(store.write(outlive_an_engine))


def test_above_their_limit_the_oldest_results_go_and_the_futures_stay(store: Store):
    def scenario(db: Connection) -> tuple[list[int], list[str]]:
        dropped = []
        for seq_id in range(5):
            operations.append(db, operation(f"op-{seq_id}", seq_id=seq_id))
            operations.finish(
                db, f"op-{seq_id}", epoch=1, media_type="x", result=bytes(100), keeps_payload=False,
                now=NOW + timedelta(seconds=seq_id))  # fmt: skip
            dropped.append(operations.drop_oldest_results(db, 300))
        repeats = [operations.append(db, operation("again", seq_id=seq_id)) for seq_id in range(5)]
        return dropped, [f"{row.op_id} {row.status} {len(row.result or b'')}" for row in repeats]

    asyncio.run(store.write(lambda db: epochs.begin(db, NOW)))
    assert asyncio.run(store.write(scenario)) == (
        [0, 0, 0, 1, 1],
        ["op-0 expired 0", "op-1 expired 0", "op-2 done 100", "op-3 done 100", "op-4 done 100"],
    )


def test_the_plan_of_an_operation_goes_with_its_outcome_and_its_number_still_counts_as_run(store: Store):
    def scenario(db: Connection) -> tuple[bytes | None, int]:
        planned = msgspec.structs.replace(operation("op", seq_id=7), plan=b"what to do")
        operations.append(db, planned)
        before = operations.last_run(db, "run")
        finish(db, "op")
        row = operations.get(db, "op")
        assert row is not None
        return row.plan, operations.last_run(db, "run") - before

    assert asyncio.run(store.write(scenario)) == (b"", 7)
